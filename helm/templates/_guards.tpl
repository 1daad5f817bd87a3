{{/* Combinations that no schema can refuse and that would be ignored or hang. Each message names the values at fault. */}}
{{- define "tandem.guards" -}}
{{- $v := .Values.verifier -}}
{{- $m := .Values.model -}}
{{- $d := .Values.draft -}}
{{- $a := $d.autoscaling -}}
{{- if and (eq $v.mode "singlePod") (gt (int $v.nodes) 1) -}}
{{- fail (printf "verifier.mode singlePod holds a group in one pod, but verifier.nodes is %d: take mode lws or statefulset, or raise verifier.ranksPerNode" (int $v.nodes)) -}}
{{- end -}}
{{- if and (eq $m.source "claim") (not $m.existingClaim) -}}
{{- fail "model.source claim needs model.existingClaim, a claim that holds the model" -}}
{{- end -}}
{{- if and (eq $m.source "image") $m.existingClaim -}}
{{- fail "model.source image reads the model from the images, so model.existingClaim would be ignored: leave one of them out" -}}
{{- end -}}
{{- if and $m.claim.create (ne $m.source "download") -}}
{{- fail (printf "model.claim.create makes an empty claim, which only model.source download fills; the source is %s" $m.source) -}}
{{- end -}}
{{- if and $m.claim.create $m.existingClaim -}}
{{- fail "model.claim.create and model.existingClaim exclude each other" -}}
{{- end -}}
{{- if and $m.tokenSecret.name (ne $m.source "download") -}}
{{- fail (printf "model.tokenSecret is used by model.source download only; the source is %s" $m.source) -}}
{{- end -}}
{{- $t := .Values.tls -}}
{{- if eq $t.source "secrets" -}}
{{- range $component := ternary (list "gateway" "verifier" "draft") (list "gateway" "verifier") $d.enabled -}}
{{- if not (get $t.secrets $component) -}}
{{- fail (printf "tls.source secrets needs tls.secrets.%s, a Secret with tls.crt, tls.key and ca.crt" $component) -}}
{{- end -}}
{{- end -}}
{{- else if or $t.secrets.gateway $t.secrets.verifier $t.secrets.draft -}}
{{- fail (printf "tls.secrets are used by tls.source secrets only; the source is %s" $t.source) -}}
{{- end -}}
{{- if and (eq $t.source "certManager") (not $t.issuer.name) -}}
{{- fail "tls.source certManager needs tls.issuer.name, an issuer that exists" -}}
{{- end -}}
{{- if and (ne $t.source "certManager") $t.issuer.name -}}
{{- fail (printf "tls.issuer is used by tls.source certManager only; the source is %s" $t.source) -}}
{{- end -}}
{{- if and (eq $t.source "none") $t.clients -}}
{{- fail "tls.clients names callers by their certificates, and tls.source none has none" -}}
{{- end -}}
{{- if and .Values.auth.testTokenSecret.name (not .Values.auth.tenantsSecret.name) -}}
{{- fail "auth.testTokenSecret holds a token, but without auth.tenantsSecret the gateway asks for none" -}}
{{- end -}}
{{- $gatewayTokens := dig "max_step_tokens" 512 .Values.gateway.settings -}}
{{- $rankTokens := dig "max_step_tokens" 2048 $v.settings -}}
{{- if gt (int $gatewayTokens) (int $rankTokens) -}}
{{- fail (printf "gateway.settings.max_step_tokens (%d) is above verifier.settings.max_step_tokens (%d): ranks would refuse such steps" (int $gatewayTokens) (int $rankTokens)) -}}
{{- end -}}
{{- if and $d.enabled (eq (int (dig "max_draft_tokens" 8 .Values.gateway.settings)) 0) -}}
{{- fail "draft.enabled starts draft workers, but gateway.settings.max_draft_tokens 0 never asks them" -}}
{{- end -}}
{{- if and (not $d.enabled) (or $d.model (ne $a.kind "none")) -}}
{{- fail "draft.model and draft.autoscaling do nothing without draft.enabled" -}}
{{- end -}}
{{- if and (not $d.model) $d.accelerator (ne $d.accelerator "cpu") -}}
{{- fail (printf "draft.accelerator %s without draft.model: drafts from a request's own text need no GPU" $d.accelerator) -}}
{{- end -}}
{{- if and (eq .Values.discovery "static") (gt (int $d.replicas) (int $d.maxReplicas)) -}}
{{- fail (printf "draft.replicas (%d) is above draft.maxReplicas (%d), the addresses that gateways try" (int $d.replicas) (int $d.maxReplicas)) -}}
{{- end -}}
{{- if gt (int $a.minReplicas) (int $d.maxReplicas) -}}
{{- fail (printf "draft.autoscaling.minReplicas (%d) is above draft.maxReplicas (%d)" (int $a.minReplicas) (int $d.maxReplicas)) -}}
{{- end -}}
{{- if and (eq .Values.discovery "static") .Values.gateway.replicas -}}
{{- fail (printf "gateway.replicas %d with discovery static: each verifier group has one gateway of its own" (int .Values.gateway.replicas)) -}}
{{- end -}}
{{- $rollout := $v.rollout -}}
{{- if and (eq (int $rollout.maxSurge) 0) (eq (int $rollout.maxUnavailable) 0) -}}
{{- fail "verifier.rollout.maxSurge and verifier.rollout.maxUnavailable are both 0: no update could begin" -}}
{{- end -}}
{{- if and (eq .Values.discovery "kubernetes") .Values.networkPolicy.enabled (not .Values.networkPolicy.apiServer) -}}
{{- fail "discovery kubernetes needs networkPolicy.apiServer: gateways could not reach the API server" -}}
{{- end -}}
{{- if and (eq $a.kind "hpa") (or (not $a.metrics) $a.triggers) -}}
{{- fail "draft.autoscaling.kind hpa needs draft.autoscaling.metrics, and takes no triggers" -}}
{{- end -}}
{{- if and (eq $a.kind "hpa") (eq (int $a.minReplicas) 0) -}}
{{- fail "draft.autoscaling.minReplicas 0 needs kind keda: a HorizontalPodAutoscaler keeps one" -}}
{{- end -}}
{{- if and (eq $a.kind "keda") (or (not (or $a.triggers $a.prometheus.serverAddress)) $a.metrics) -}}
{{- fail "draft.autoscaling.kind keda needs draft.autoscaling.triggers or draft.autoscaling.prometheus, and takes no metrics" -}}
{{- end -}}
{{- include "tandem.metricsGuards" . -}}
{{- end }}
