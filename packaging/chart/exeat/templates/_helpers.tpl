{{- define "exeat.name" -}}
{{- default (ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name)) .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Takes (dict "root" . "part" "agent"). */}}
{{- define "exeat.labels" -}}
{{ include "exeat.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "exeat.selector" -}}
app.kubernetes.io/name: exeat
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end -}}

{{/* A tag, or a digest in its place. */}}
{{- define "exeat.image" -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.image.tag -}}
{{ index .root.Values.image .part }}{{ ternary "" ":" (hasPrefix "@" $tag) }}{{ $tag }}
{{- end -}}

{{- define "exeat.plane" -}}
{{ include "exeat.name" . }}-plane
{{- end -}}

{{/* What the agent's settings are, if nothing else is said. */}}
{{- define "exeat.agentSpec" -}}
policies: /etc/exeat-policies
node:
  name: ${NODE_NAME}
  {{- with .Values.agent.nodeLabels }}
  labels: {{ toYaml . | nindent 4 }}
  {{- end }}
{{- if .Values.plane.enabled }}
{{- $own := ternary "node" "${NODE_NAME}" (ne .Values.agent.certificates.hostPath "") }}
plane:
  endpoints: [{{ printf "%s.%s.svc:%v" (include "exeat.plane" .) .Release.Namespace .Values.plane.service.agentsPort | quote }}]
  ca: /etc/exeat-tls/ca.crt
  certificate: /etc/exeat-tls/{{ $own }}.crt
  key: /etc/exeat-tls/{{ $own }}.key
  {{- if .Values.plane.signing.secret }}
  public_key: /etc/exeat-tls/plane.pub
  {{- end }}
{{- end }}
{{- end -}}

{{- define "exeat.agentConfig" -}}
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  {{- mergeOverwrite (fromYaml (include "exeat.agentSpec" .)) (deepCopy .Values.agent.settings) | toYaml | nindent 2 }}
{{- end -}}

{{/* What the plane's settings are, if nothing else is said. */}}
{{- define "exeat.planeSpec" -}}
agents:
  listen: 0.0.0.0:9470
  certificate: /etc/exeat-tls/tls.crt
  key: /etc/exeat-tls/tls.key
  ca: /etc/exeat-tls/agents-ca.crt
web:
  listen: 0.0.0.0:9471
  certificate: /etc/exeat-tls/tls.crt
  key: /etc/exeat-tls/tls.key
store: {{ ternary "{environment: EXEAT_STORE}" "sqlite:/var/lib/exeat-plane/plane.db" (ne .Values.plane.store.secret "") }}
{{- if .Values.plane.signing.secret }}
signing_key: /tmp/signing.key
{{- end }}
{{- if .Values.plane.cluster }}
cluster: {in_cluster: true}
{{- end }}
{{- end -}}

{{- define "exeat.planeConfig" -}}
apiVersion: exeat.dev/v1
kind: PlaneSettings
spec:
  {{- mergeOverwrite (fromYaml (include "exeat.planeSpec" .)) (deepCopy .Values.plane.settings) | toYaml | nindent 2 }}
{{- end -}}
