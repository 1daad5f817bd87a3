{{/* The DNS name in a component's certificates. Call with (dict "root" . "component" "verifier"). */}}
{{- define "tandem.tlsName" -}}
{{ include "tandem.fullname" .root }}{{ if ne .component "gateway" }}-{{ .component }}{{ end }}.{{ include "tandem.domain" .root }}
{{- end }}

{{- define "tandem.tlsSecret" -}}
{{- if eq .root.Values.tls.source "secrets" -}}
{{ get .root.Values.tls.secrets .component }}
{{- else -}}
{{ include "tandem.fullname" .root }}-{{ .component }}-tls
{{- end -}}
{{- end }}

{{/* Volume and mount of a component's certificate; nothing in plaintext. No subPath: files are to follow the Secret. */}}
{{- define "tandem.tlsVolume" -}}
{{- if ne .root.Values.tls.source "none" }}
- name: tls
  secret: {secretName: {{ include "tandem.tlsSecret" . }}, defaultMode: 0440}
{{- end }}
{{- end }}

{{- define "tandem.tlsMount" -}}
{{- if ne .Values.tls.source "none" }}
- {name: tls, mountPath: /etc/tandem-tls, readOnly: true}
{{- end }}
{{- end }}

{{/* Settings of a worker: its certificate, and its gateway as the only caller. */}}
{{- define "tandem.workerSecurity" -}}
{{- if eq .Values.tls.source "none" -}}
allow_plaintext: true
{{- else -}}
tls_cert: /etc/tandem-tls/tls.crt
tls_key: /etc/tandem-tls/tls.key
tls_ca: /etc/tandem-tls/ca.crt
tls_peers: [{{ include "tandem.tlsName" (dict "root" . "component" "gateway") | quote }}]
{{- end -}}
{{- end }}

{{/* Settings of a gateway: one certificate for both of its sides, and who may call. */}}
{{- define "tandem.gatewaySecurity" -}}
{{- if eq .Values.tls.source "none" }}
allow_plaintext: true
{{- else }}
tls_cert: /etc/tandem-tls/tls.crt
tls_key: /etc/tandem-tls/tls.key
worker_tls_cert: /etc/tandem-tls/tls.crt
worker_tls_key: /etc/tandem-tls/tls.key
worker_tls_ca: /etc/tandem-tls/ca.crt
rank_tls_name: {{ include "tandem.tlsName" (dict "root" . "component" "verifier") }}
draft_tls_name: {{ include "tandem.tlsName" (dict "root" . "component" "draft") }}
{{- with .Values.tls.clients }}
tls_ca: /etc/tandem-tls/ca.crt
tls_peers: {{ append . (include "tandem.tlsName" (dict "root" $ "component" "gateway")) | toJson }}
{{- end }}
{{- end }}
{{- if .Values.auth.tenantsSecret.name }}
tenants: /etc/tandem-auth/{{ .Values.auth.tenantsSecret.key }}
{{- else if not .Values.tls.clients }}
allow_anonymous: true
{{- end }}
{{- end }}
