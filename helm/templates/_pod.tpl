{{/* What every pod spec begins with. Call with (dict "root" . "gpu" true): a GPU brings its runtime class; with
     "account" the pod holds that service account's token. */}}
{{- define "tandem.podBase" -}}
automountServiceAccountToken: {{ hasKey . "account" }}
{{- with .account }}
serviceAccountName: {{ . }}
{{- end }}
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .root.Values.pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and .gpu .root.Values.pods.runtimeClassName }}
runtimeClassName: {{ .root.Values.pods.runtimeClassName }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ int64 .root.Values.pods.userId }}
  runAsGroup: {{ int64 .root.Values.pods.userId }}
  fsGroup: {{ int64 .root.Values.pods.userId }}
  fsGroupChangePolicy: OnRootMismatch
  {{- with .root.Values.pods.supplementalGroups }}
  supplementalGroups: {{ toJson . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "tandem.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: {{ .Values.pods.readOnlyRootFilesystem }}
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "tandem.gatewayImage" -}}
image: {{ printf "%s/tandem-gateway:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* Call with (dict "root" . "accelerator" "amd"). */}}
{{- define "tandem.workerImage" -}}
{{- $variant := get (dict "nvidia" "cuda" "amd" "rocm" "cpu" "cpu") .accelerator -}}
image: {{ printf "%s/tandem-worker:%s-%s" .root.Values.image.repository (default .root.Chart.AppVersion .root.Values.image.tag) $variant }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{/* Variables of every container of ours: nothing is written outside of /tmp. Call with the root. */}}
{{- define "tandem.env" -}}
- {name: HOME, value: /tmp}
- {name: TANDEM_HOME, value: /var/lib/tandem}
- {name: TANDEM_LOG_LEVEL, value: {{ .Values.logLevel }}}
{{- end }}

{{/* Resources with GPUs added. Call with (dict "resources" map "accelerator" "nvidia" "gpus" 1). */}}
{{- define "tandem.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- $name := get (dict "nvidia" "nvidia.com/gpu" "amd" "amd.com/gpu" "cpu" "") .accelerator -}}
{{- if $name -}}
{{- $_ := set $resources "limits" (merge (dict $name .gpus) (default dict $resources.limits)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* Node selector and tolerations. Call with (dict "values" .Values.draft "accelerator" "nvidia"). */}}
{{- define "tandem.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- $tolerations := .values.tolerations -}}
{{- if ne .accelerator "cpu" -}}
{{- $tolerations = append $tolerations (dict "key" (printf "%s.com/gpu" .accelerator) "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- with $tolerations }}
tolerations:
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}

{{/* A component's pods on different nodes and zones, as far as that goes. Call with (dict "root" . "component" "gateway"). */}}
{{- define "tandem.spread" -}}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "tandem.selector" $ | nindent 8 }}
{{- end }}
{{- end }}

{{/* Probes through gRPC health: "" is SERVING once work is taken, "live" while work goes on.
     Asked on a port of their own: the kubelet has no certificate. Call with (dict "startup" "" "startupMinutes" 30). */}}
{{- define "tandem.probes" -}}
startupProbe:
  grpc: {port: 50052, service: {{ .startup | quote }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ mul .startupMinutes 12 }}
readinessProbe:
  grpc: {port: 50052}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  grpc: {port: 50052, service: live}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* preStop leaves time for endpoints to be withdrawn; then running work drains; then a margin.
     Call with (dict "values" .Values.gateway). */}}
{{- define "tandem.graceSeconds" -}}
{{- add .values.preStopSleepSeconds (ceil .values.settings.drain_budget_s | int) 30 -}}
{{- end }}

{{- define "tandem.preStop" -}}
lifecycle:
  preStop:
    sleep: {seconds: {{ .preStopSleepSeconds }}}
{{- end }}
