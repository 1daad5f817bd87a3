{{- define "tandem.policyHead" }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "tandem.fullname" .root }}-{{ default "default-deny" .component }}
  labels:
    {{- include "tandem.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "tandem.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}

{{- define "tandem.downloadRule" }}
{{- /* An empty list of peers would mean all of them. */}}
{{- if and (eq .Values.model.source "download") .Values.networkPolicy.downloadFrom }}
    - to: {{ toJson .Values.networkPolicy.downloadFrom }}
      ports: [{protocol: TCP, port: 443}]
{{- end }}
{{- end }}

{{/* The way to the collector of traces. */}}
{{- define "tandem.collectorRule" }}
{{- with .Values.telemetry.otlpEndpoint }}
    - to: {{ toJson $.Values.telemetry.collector }}
      ports: [{protocol: TCP, port: {{ regexFind "[0-9]+$" . }}}]
{{- end }}
{{- end }}

{{- define "tandem.peer" }}
        - podSelector:
            matchLabels:
              {{- include "tandem.selector" . | nindent 14 }}
{{- end }}
