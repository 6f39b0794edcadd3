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

{{/* The name with the tag behind it; a name with a digest is whole. */}}
{{- define "exeat.image" -}}
{{- $name := index .root.Values.image .part -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.image.tag -}}
{{ ternary $name (printf "%s:%s" $name $tag) (contains "@" $name) }}
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

{{- define "exeat.agentSettings" -}}
{{ mergeOverwrite (fromYaml (include "exeat.agentSpec" .)) (deepCopy .Values.agent.settings) | toYaml }}
{{- end -}}

{{- define "exeat.agentConfig" -}}
apiVersion: exeat.dev/v1
kind: AgentSettings
spec:
  {{- include "exeat.agentSettings" . | nindent 2 }}
{{- end -}}

{{/* Host and port of a place to listen. Takes (dict "listen" "0.0.0.0:9470" "value" its name among the values). */}}
{{- define "exeat.door" -}}
{{- if not (regexMatch "^(\\[[0-9A-Fa-f:.]+\\]|[0-9.]+):[0-9]{1,5}$" .listen) -}}
{{- fail (printf "%s is %s: write an address and a port; the kubelet asks there whether the pod is ready" .value .listen) -}}
{{- end -}}
{{- $port := regexFind "[0-9]+$" .listen -}}
host: {{ .listen | trimSuffix (printf ":%s" $port) | trimAll "[]" | quote }}
port: {{ $port }}
{{- end -}}

{{/* Where the agent answers the kubelet, which is on the node, too. */}}
{{- define "exeat.agentDoor" -}}
{{- $metrics := (fromYaml (include "exeat.agentSettings" .)).metrics | default dict -}}
{{- $listen := hasKey $metrics "listen" | ternary ($metrics.listen | toString) "127.0.0.1:9469" -}}
{{- $door := fromYaml (include "exeat.door" (dict "listen" $listen "value" "agent.settings.metrics.listen")) -}}
{{- $own := dict "0.0.0.0" "127.0.0.1" "::" "::1" -}}
host: {{ default $door.host (get $own $door.host) | quote }}, port: {{ $door.port }}
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

{{- define "exeat.planeSettings" -}}
{{ mergeOverwrite (fromYaml (include "exeat.planeSpec" .)) (deepCopy .Values.plane.settings) | toYaml }}
{{- end -}}

{{- define "exeat.planeConfig" -}}
apiVersion: exeat.dev/v1
kind: PlaneSettings
spec:
  {{- include "exeat.planeSettings" . | nindent 2 }}
{{- end -}}

{{/* The port of one of the plane's two doors. Takes (dict "root" . "door" "web"). */}}
{{- define "exeat.planePort" -}}
{{- $value := printf "plane.settings.%s.listen" .door -}}
{{- $listen := (index (fromYaml (include "exeat.planeSettings" .root)) .door).listen | toString -}}
{{- $door := fromYaml (include "exeat.door" (dict "listen" $listen "value" $value)) -}}
{{- if or (hasPrefix "127." $door.host) (eq "::1" $door.host) -}}
{{- fail (printf "%s is %s, where nobody beside the pod reaches it: write 0.0.0.0 or [::]" $value $listen) -}}
{{- end -}}
{{ $door.port }}
{{- end -}}
