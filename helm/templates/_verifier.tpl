{{/* The pod template of a verifier, the same in all modes.
     Call with (dict "root" . "group" "0"); in mode lws the group is a reference to a variable, and labels lack it; pods
     of groups that are all alike have none. */}}
{{- define "tandem.verifierPod" -}}
{{- $values := .root.Values -}}
{{- $v := $values.verifier -}}
{{- $selector := dict "root" .root "component" "verifier" -}}
{{- if and (hasKey . "group") (ne $v.mode "lws") }}{{ $_ := set $selector "group" .group }}{{ end -}}
metadata:
  labels:
    {{- include "tandem.selector" $selector | nindent 4 }}
  annotations:
    checksum/config: {{ include "tandem.verifierConfig" .root | sha256sum }}
    # A mesh's proxy has no place between ranks: their ports cannot be known.
    sidecar.istio.io/inject: "false"
    {{- with $values.pods.annotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "tandem.podBase" (dict "root" .root "gpu" (ne $values.accelerator "cpu")) | nindent 2 }}
  terminationGracePeriodSeconds: {{ include "tandem.graceSeconds" (dict "values" $v) }}
  {{- include "tandem.placement" (dict "values" $v "accelerator" $values.accelerator) | nindent 2 }}
  {{- if not (hasKey . "group") }}
  {{- include "tandem.spread" $selector | nindent 2 }}
  {{- end }}
  {{- include "tandem.modelInit" (dict "root" .root "model" $values.model.name) | nindent 2 }}
  containers:
    - name: ranks
      {{- include "tandem.workerImage" (dict "root" .root "accelerator" $values.accelerator) | nindent 6 }}
      command: [tandem, serve, ranks]
      args: [--config, /etc/tandem/ranks.yaml]
      env:
        {{- include "tandem.env" .root | nindent 8 }}
        - {name: TANDEM_SHARD_CONFIG, value: /etc/tandem/shard.yaml}
        - {name: TRITON_CACHE_DIR, value: /tmp/triton}
        {{- if eq $v.mode "lws" }}
        - name: GROUP_INDEX
          valueFrom:
            fieldRef: {fieldPath: "metadata.labels['leaderworkerset.sigs.k8s.io/group-index']"}
        - {name: TANDEM_RANKS_HOST, value: $(LWS_WORKER_INDEX)}
        {{- else if eq $v.mode "statefulset" }}
        - name: TANDEM_RANKS_HOST
          valueFrom:
            fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}
        {{- end }}
        {{- if ne $v.mode "singlePod" }}
        - {name: TANDEM_RANKS_HOSTS, value: {{ include "tandem.hosts" . | quote }}}
        {{- end }}
        {{- with $v.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- range $local := until (int $v.ranksPerNode) }}
        - {name: rank-{{ $local }}, containerPort: {{ add 50060 $local }}}
        {{- end }}
        - {name: health, containerPort: 50052}
        {{- if $values.metrics.enabled }}
        {{- include "tandem.metricsPorts" $v.ranksPerNode | nindent 8 }}
        {{- end }}
      {{- include "tandem.probes" (dict "startup" "" "startupMinutes" $v.startupMinutes) | nindent 6 }}
      {{- include "tandem.preStop" $v | nindent 6 }}
      resources:
        {{- include "tandem.resources" (dict "resources" $v.resources "accelerator" $values.accelerator "gpus" $v.ranksPerNode) | nindent 8 }}
      {{- include "tandem.containerSecurity" .root | nindent 6 }}
      volumeMounts:
        - {name: config, mountPath: /etc/tandem, readOnly: true}
        - {name: shm, mountPath: /dev/shm}
        - {name: tmp, mountPath: /tmp}
        {{- include "tandem.modelMount" .root | nindent 8 }}
        {{- include "tandem.tlsMount" .root | nindent 8 }}
  volumes:
    - name: config
      configMap: {name: {{ include "tandem.fullname" .root }}-verifier}
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: {{ $v.shmSize }}}
    - name: tmp
      emptyDir: {}
    {{- include "tandem.modelVolume" .root | nindent 4 }}
    {{- include "tandem.tlsVolume" (dict "root" .root "component" "verifier") | nindent 4 }}
{{- end }}
