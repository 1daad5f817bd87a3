{{/* Ports that Prometheus scrapes: a pod's first process on 9464, the others after it. Call with the number of them. */}}
{{- define "tandem.metricsPorts" -}}
{{- range $local := until (int .) }}
- {name: metrics{{ ternary "" (printf "-%d" $local) (eq $local 0) }}, containerPort: {{ add 9464 $local }}}
{{- end }}
{{- end }}

{{- define "tandem.metricsListen" -}}
{{- if .Values.metrics.enabled }}
metrics_listen: 0.0.0.0:9464
{{- end }}
{{- end }}

{{/* Why drafts are worth their pods: busy workers, and none wanted where the target refuses what they draft. */}}
{{- define "tandem.draftDemand" -}}
{{- $ours := printf "namespace=%q,app_kubernetes_io_instance=%q" .Release.Namespace .Release.Name -}}
{{- $rate := "sum(rate(tandem_speculation_%s_tokens_total{%s,source=\"worker\"}[5m]))" -}}
sum(tandem_draft_worker_busy_ratio{{ printf "{%s}" $ours }})
* ({{ printf $rate "accepted" $ours }} / {{ printf $rate "draft" $ours }}
>= bool {{ .Values.draft.autoscaling.prometheus.minAcceptance }})
{{- end }}

{{- define "tandem.metricsGuards" -}}
{{- $m := .Values.metrics -}}
{{- $a := .Values.draft.autoscaling -}}
{{- $address := $a.prometheus.serverAddress -}}
{{- if and (not $m.enabled) (or $m.podMonitor.enabled $m.rules.enabled $m.dashboard.enabled $address) -}}
{{- fail "metrics.podMonitor, metrics.rules, metrics.dashboard and draft.autoscaling.prometheus need metrics.enabled" -}}
{{- end -}}
{{- if and $address (ne $a.kind "keda") -}}
{{- fail (printf "draft.autoscaling.prometheus is read by kind keda only; the kind is %s" $a.kind) -}}
{{- end -}}
{{- if and $address (not $a.triggers) (eq (int $a.minReplicas) 0) -}}
{{- fail "draft.autoscaling.minReplicas 0 with draft.autoscaling.prometheus alone: without a worker nothing would ever ask for one" -}}
{{- end -}}
{{- end }}
