{{/* Settings files, read by the same code that reads the flags of tandem serve. */}}

{{/* What a gateway finds in a request's own text costs no trip, so it looks there wherever anything drafts. */}}
{{- define "tandem.gatewayConfig" -}}
gateway.yaml: |
  {{- merge (dict "model" (include "tandem.checkpoint" .Values.model.name) "listen" "0.0.0.0:50051" "health_listen" "0.0.0.0:50052") (include "tandem.metricsListen" . | fromYaml) (include "tandem.gatewaySecurity" . | fromYaml) .Values.gateway.settings (ternary (dict "ngram" true) dict .Values.draft.enabled) | toYaml | nindent 2 }}
{{- end }}

{{- define "tandem.verifierConfig" -}}
{{- /* Pods of other nodes may have images to pull before their ranks come. */}}
{{- $waiting := ternary (dict "rendezvous_timeout_s" (mul .Values.verifier.startupMinutes 60)) dict (gt (int .Values.verifier.nodes) 1) -}}
{{- $names := ternary dict (dict "tls_name" (include "tandem.tlsName" (dict "root" . "component" "verifier"))) (eq .Values.tls.source "none") -}}
ranks.yaml: |
  {{- dict "ranks_per_host" (int .Values.verifier.ranksPerNode) "device" (ternary "cpu" "cuda" (eq .Values.accelerator "cpu")) "bind" "0.0.0.0" "port" 50060 "health_port" 50052 | merge $names (ternary (dict "metrics_port" 9464) dict .Values.metrics.enabled) | toYaml | nindent 2 }}
{{- $threads := include "tandem.threads" (dict "accelerator" .Values.accelerator "resources" .Values.verifier.resources "processes" .Values.verifier.ranksPerNode) | fromYaml }}
shard.yaml: |
  {{- merge (dict "model" (include "tandem.checkpoint" .Values.model.name)) (include "tandem.workerSecurity" . | fromYaml) .Values.verifier.settings $waiting $threads | toYaml | nindent 2 }}
{{- end }}

{{- define "tandem.draftConfig" -}}
{{- $chosen := dict "proposer" "ngram" -}}
{{- $threads := dict -}}
{{- if .Values.draft.model -}}
{{- $threads = include "tandem.threads" (dict "accelerator" (include "tandem.draftAccelerator" .) "resources" .Values.draft.resources "processes" 1) | fromYaml -}}
{{- $chosen = dict "proposer" "model" "model" (include "tandem.checkpoint" .Values.draft.model) "device" (ternary "cpu" "cuda:0" (eq (include "tandem.draftAccelerator" .) "cpu")) -}}
{{- end -}}
draft.yaml: |
  {{- merge $chosen (dict "listen" "0.0.0.0:50070" "health_listen" "0.0.0.0:50052") (include "tandem.metricsListen" . | fromYaml) (include "tandem.workerSecurity" . | fromYaml) .Values.draft.settings $threads | toYaml | nindent 2 }}
{{- end }}

{{/* Threads of a process that computes on CPUs: its share of the cores that are requested. It would count the node's. */}}
{{- define "tandem.threads" -}}
{{- if eq .accelerator "cpu" -}}
threads: {{ max 1 (div (int (dig "requests" "cpu" 1 .resources)) .processes) }}
{{- end -}}
{{- end }}
