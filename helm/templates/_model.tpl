{{- define "tandem.claimName" -}}
{{- default (ternary (printf "%s-models" (include "tandem.fullname" .)) "" .Values.model.claim.create) .Values.model.existingClaim -}}
{{- end }}

{{/* The volume of checkpoints; nothing where the images hold them. */}}
{{- define "tandem.modelVolume" -}}
{{- if ne .Values.model.source "image" }}
- name: models
  {{- if include "tandem.claimName" . }}
  persistentVolumeClaim:
    claimName: {{ include "tandem.claimName" . }}
    readOnly: {{ eq .Values.model.source "claim" }}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.model.podDiskSize }}}
  {{- end }}
{{- end }}
{{- end }}

{{- define "tandem.modelMount" -}}
{{- if ne .Values.model.source "image" }}
- {name: models, mountPath: /var/lib/tandem/models, readOnly: true}
{{- end }}
{{- end }}

{{/* The init container that fetches a model; nothing with other sources. Call with (dict "root" . "model" "name"). */}}
{{- define "tandem.modelInit" -}}
{{- $values := .root.Values -}}
{{- if eq $values.model.source "download" }}
initContainers:
  - name: download
    {{- include "tandem.workerImage" (dict "root" .root "accelerator" $values.accelerator) | nindent 4 }}
    command: [tandem, download, {{ .model | quote }}]
    env:
      {{- include "tandem.env" .root | nindent 6 }}
      {{- with $values.model.tokenSecret }}
      {{- if .name }}
      - name: HF_TOKEN
        valueFrom:
          secretKeyRef: {name: {{ .name }}, key: {{ .key }}}
      {{- end }}
      {{- end }}
    resources:
      requests: {cpu: "1", memory: 2Gi}
      limits: {memory: 4Gi}
    {{- include "tandem.containerSecurity" .root | nindent 4 }}
    volumeMounts:
      - {name: models, mountPath: /var/lib/tandem/models}
      - {name: tmp, mountPath: /tmp}
{{- end }}
{{- end }}
