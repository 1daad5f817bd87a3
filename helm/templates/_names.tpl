{{- define "tandem.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "tandem.fullname" -}}
{{- $name := include "tandem.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select. Call with (dict "root" . "component" "gateway" "group" 0); group may be missing. */}}
{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ include "tandem.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- if hasKey . "group" }}
tandem/group: {{ .group | quote }}
{{- end }}
{{- end }}

{{- define "tandem.labels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* The end of every name in the DNS. */}}
{{- define "tandem.domain" -}}
{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{/* What drafts compute on. */}}
{{- define "tandem.draftAccelerator" -}}
{{- default (ternary .Values.accelerator "cpu" (ne .Values.draft.model "")) .Values.draft.accelerator -}}
{{- end }}

{{/* The folder of a checkpoint, as tandem's model store names it. Call with the model's name. */}}
{{- define "tandem.checkpoint" -}}
/var/lib/tandem/models/{{ . | replace "/" "--" }}
{{- end }}

{{/* Host names of a group's pods in rank order, with commas. Call with (dict "root" . "group" "0"). */}}
{{- define "tandem.hosts" -}}
{{- $full := include "tandem.fullname" .root -}}
{{- $domain := include "tandem.domain" .root -}}
{{- $hosts := list -}}
{{- range $node := until (int .root.Values.verifier.nodes) -}}
{{- if eq $.root.Values.verifier.mode "singlePod" -}}
{{- $hosts = append $hosts (printf "%s-verifier-%s.%s" $full $.group $domain) -}}
{{- else if eq $.root.Values.verifier.mode "lws" -}}
{{- $pod := printf "%s-verifier-%s%s" $full $.group (ternary "" (printf "-%d" $node) (eq $node 0)) -}}
{{- $hosts = append $hosts (printf "%s.%s-verifier.%s" $pod $full $domain) -}}
{{- else -}}
{{- $hosts = append $hosts (printf "%s-verifier-%s-%d.%s-verifier-%s.%s" $full $.group $node $full $.group $domain) -}}
{{- end -}}
{{- end -}}
{{- join "," $hosts -}}
{{- end }}

{{/* Addresses of a group's ranks, in rank order, with commas. */}}
{{- define "tandem.ranks" -}}
{{- $ranks := list -}}
{{- range $host := splitList "," (include "tandem.hosts" .) -}}
{{- range $local := until (int $.root.Values.verifier.ranksPerNode) -}}
{{- $ranks = append $ranks (printf "%s:%d" $host (add 50060 $local)) -}}
{{- end -}}
{{- end -}}
{{- join "," $ranks -}}
{{- end }}

{{/* Where gateways find the pods behind a headless Service. Call with (dict "root" . "service" "name" "port" 50060). */}}
{{- define "tandem.target" -}}
{{- if eq .root.Values.discovery "dns" -}}
dns:///{{ .service }}.{{ include "tandem.domain" .root }}:{{ .port }}
{{- else -}}
k8s:///{{ .root.Release.Namespace }}/{{ .service }}:{{ .port }}
{{- end -}}
{{- end }}

{{/* Draft workers: where they are found, or the addresses of all that may ever be, with commas; empty without. */}}
{{- define "tandem.drafts" -}}
{{- if and .Values.draft.enabled (ne .Values.discovery "static") -}}
{{- include "tandem.target" (dict "root" . "service" (printf "%s-draft" (include "tandem.fullname" .)) "port" 50070) -}}
{{- else -}}
{{- $drafts := list -}}
{{- if .Values.draft.enabled -}}
{{- range $number := until (int .Values.draft.maxReplicas) -}}
{{- $name := printf "%s-draft" (include "tandem.fullname" $) -}}
{{- $drafts = append $drafts (printf "%s-%d.%s.%s:50070" $name $number $name (include "tandem.domain" $)) -}}
{{- end -}}
{{- end -}}
{{- join "," $drafts -}}
{{- end -}}
{{- end }}
