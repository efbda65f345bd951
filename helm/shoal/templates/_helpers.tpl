{{- /* Names and labels. */ -}}

{{- define "shoal.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{- /* Short enough for every suffix that is put behind it. */ -}}
{{- define "shoal.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains (include "shoal.name" .) .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "shoal.name" .) | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "shoal.selector" -}}
app.kubernetes.io/name: {{ include "shoal.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "shoal.labels" -}}
{{ include "shoal.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "shoal.server.selector" -}}
{{ include "shoal.selector" . }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "shoal.worker.selector" -}}
{{ include "shoal.selector" . }}
app.kubernetes.io/component: worker
{{- end -}}

{{- /* What containers are made of. */ -}}

{{- define "shoal.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "shoal.tokenSecret" -}}
{{- default (printf "%s-worker-token" (include "shoal.fullname" .)) .Values.workerToken.existingSecret -}}
{{- end -}}

{{- /* As a file, which is read again when the Secret changes. */ -}}
{{- define "shoal.tokenVolume" -}}
- name: worker-token
  secret:
    secretName: {{ include "shoal.tokenSecret" . | quote }}
    items:
      - { key: {{ if .Values.workerToken.existingSecret }}{{ .Values.workerToken.key | quote }}{{ else }}token{{ end }}, path: token }
{{- end -}}

{{- /* Secrets of TLS: those that are stated, else those that cert-manager makes; nothing where there is neither. */ -}}
{{- define "shoal.tls.clients" -}}
{{- if .Values.tls.clients.secret -}}{{ .Values.tls.clients.secret }}
{{- else if .Values.tls.certManager.issuer -}}{{ include "shoal.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{- define "shoal.tls.link" -}}
{{- if .Values.tls.link.secret -}}{{ .Values.tls.link.secret }}
{{- else if .Values.tls.certManager.issuer -}}{{ include "shoal.fullname" . }}-link-tls
{{- end -}}
{{- end -}}

{{- define "shoal.tls.worker" -}}
{{- if .Values.tls.link.workerSecret -}}{{ .Values.tls.link.workerSecret }}
{{- else if .Values.tls.certManager.issuer -}}{{ include "shoal.fullname" . }}-worker-tls
{{- end -}}
{{- end -}}

{{- /* What a container may write to, since it may not write to its image. (dict "home" the value) */ -}}
{{- define "shoal.volumes" -}}
- name: home
{{- if .home.claim }}
  persistentVolumeClaim: { claimName: {{ .home.claim | quote }} }
{{- else }}
  emptyDir: { sizeLimit: {{ .home.size }} }
{{- end }}
- name: tmp
  emptyDir: { sizeLimit: 64Mi }
{{- end -}}

{{- /* What every pod has that is not a server's or a worker's. */ -}}
{{- define "shoal.pod" -}}
serviceAccountName: {{ include "shoal.fullname" . }}
# Nothing here calls Kubernetes.
automountServiceAccountToken: false
# A Service named shoal-link would be the variable SHOAL_LINK_PORT, which is a setting.
enableServiceLinks: false
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where a pod goes: the server's values, or a pool's. */ -}}
{{- define "shoal.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{- /* How long a pod has to end, in seconds: sleep before the signal, the time to drain, and a margin in which it ends.
     (dict "key" the value's name, "stated" its number or null, "preStop" "drain" seconds) */ -}}
{{- define "shoal.grace" -}}
{{- $needed := add .preStop .drain 5 -}}
{{- if kindIs "invalid" .stated -}}
{{ $needed }}
{{- else if lt (int .stated) (int $needed) -}}
{{- fail (printf "%s: %d s is too short: %d s of sleep, %d s to drain and 5 s to end are %d s" .key (int .stated) (int .preStop) (int .drain) (int $needed)) -}}
{{- else -}}
{{ int .stated }}
{{- end -}}
{{- end -}}

{{- /* Seconds for which a worker finishes its batches once it is told to stop: Options::grace in worker/src/options.rs. */ -}}
{{- define "shoal.worker.drain" -}}25{{- end -}}

{{- /* Models. */ -}}

{{- /* How a model's weights come: source, claim, image or download. (dict "name" "model") */ -}}
{{- define "shoal.model.kind" -}}
{{- $kinds := list -}}
{{- range $kind := list "source" "claim" "image" "download" -}}
{{- if get $.model $kind }}{{ $kinds = append $kinds $kind }}{{ end -}}
{{- end -}}
{{- if ne (len $kinds) 1 -}}
{{- fail (printf "models.%s: states %s, and needs one of source, claim, image and download" .name (ternary "none" (join " and " $kinds) (empty $kinds))) -}}
{{- end -}}
{{- first $kinds -}}
{{- end -}}

{{- /* Where the binary reads it: a source as `--model NAME=SOURCE` takes it. (dict "name" "model") */ -}}
{{- define "shoal.model.source" -}}
{{- $kind := include "shoal.model.kind" . -}}
{{- if eq $kind "source" -}}
{{ .model.source }}
{{- else if eq $kind "download" -}}
/var/lib/shoal/downloads/{{ .name }}
{{- else -}}
{{ printf "/models/%s/%s" .name (default "" (get .model $kind).path) | trimSuffix "/" }}
{{- end -}}
{{- end -}}

{{- /* Whether files come over the network before a worker starts: "true" or "". (dict "name" "model") */ -}}
{{- define "shoal.model.comes" -}}
{{- $kind := include "shoal.model.kind" . -}}
{{- if or (eq $kind "download") (and (eq $kind "source") (not (regexMatch "^(echo|synthetic)(:.*)?$" .model.source))) -}}true{{- end -}}
{{- end -}}

{{- /* Pools. */ -}}

{{- /* A map over another, as JSON: maps are merged, anything else replaces, null removes. Sprig's merge would pass over 0, false
     and "". (list below above) */ -}}
{{- define "shoal.merge" -}}
{{- $merged := deepCopy (index . 0) -}}
{{- range $key, $above := index . 1 -}}
{{- $below := get $merged $key -}}
{{- if kindIs "invalid" $above -}}
{{- $_ := unset $merged $key -}}
{{- else if and (kindIs "map" $above) (kindIs "map" $below) -}}
{{- $_ := set $merged $key (include "shoal.merge" (list $below $above) | fromJson) -}}
{{- else -}}
{{- $_ := set $merged $key $above -}}
{{- end -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}

{{- /* A pool with its defaults, as JSON. (dict "root" $ "pool") */ -}}
{{- define "shoal.pool" -}}
{{- $pool := include "shoal.merge" (list .root.Values.poolDefaults .pool) | fromJson -}}
{{- if not $pool.models }}{{- $_ := set $pool "models" (keys .root.Values.models | sortAlpha) }}{{ end -}}
{{- toJson $pool -}}
{{- end -}}

{{- define "shoal.pool.fullname" -}}
{{ include "shoal.fullname" .root }}-worker-{{ .pool.name }}
{{- end -}}

{{- define "shoal.pool.selector" -}}
{{ include "shoal.worker.selector" .root }}
shoal/pool: {{ .pool.name | quote }}
{{- end -}}

{{- /* Whether KEDA asks the server about any pool. */ -}}
{{- define "shoal.scales" -}}
{{- range .Values.pools -}}
{{- $scale := (include "shoal.pool" (dict "root" $ "pool" .) | fromJson).autoscaling -}}
{{- if and (eq $scale.kind "keda") (eq $scale.keda.source "server") (not $scale.keda.triggers) -}}yes{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The server's configuration. JSON's strings, numbers and lists are TOML's too. */ -}}
{{- define "shoal.toml" -}}
{{ include "shoal.toml.settings" . }}
{{- range $name, $model := .Values.models }}

[models.{{ toRawJson $name }}]
source = {{ include "shoal.model.source" (dict "name" $name "model" $model) | toRawJson }}
{{- range $key, $value := $model.settings }}
{{ $key }} = {{ toRawJson $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* What of it takes a restart. */ -}}
{{- define "shoal.toml.lasting" -}}
{{ include "shoal.toml.settings" . }}
{{- range $name, $model := .Values.models }}
{{- with dig "settings" "dtype" "" $model }}
{{ $name }} {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "shoal.toml.settings" -}}
address = {{ .Values.server.address | toRawJson }}
workers = "external"
{{- if not .Values.server.http }}
http_port = "off"
{{- end }}
{{- if .Values.server.admin }}
# Only who may forward a port to the pod gets there.
admin_listen = "127.0.0.1:8004"
{{- end }}
{{- if include "shoal.scales" . }}
scaler_listen = {{ printf (ternary "[%s]:8005" "%s:8005" (contains ":" .Values.server.address)) .Values.server.address | toRawJson }}
{{- end }}
drain_time_max = "{{ int .Values.server.drainSeconds }}s"
log = {{ .Values.log.filter | toRawJson }}
log_format = {{ .Values.log.format | toRawJson }}
{{- range $key, $value := .Values.server.settings }}
{{ $key }} = {{ toRawJson $value }}
{{- end }}
worker_token_file = "/etc/shoal-token/token"
{{- if gt (int .Values.server.replicas) 1 }}
share_workers = true
{{- if not (hasKey .Values.server.settings "connection_age_max") }}
# Clients find servers that came after their own.
connection_age_max = "5m"
{{- end }}
{{- end }}
{{- if include "shoal.tls.clients" . }}
tls_cert = "/etc/shoal-tls/tls.crt"
tls_key = "/etc/shoal-tls/tls.key"
{{- if ne .Values.tls.clients.clientAuth "off" }}
tls_client_ca = "/etc/shoal-tls/ca.crt"
tls_client_auth = {{ .Values.tls.clients.clientAuth | toRawJson }}
{{- end }}
{{- end }}
{{- if include "shoal.tls.link" . }}
link_tls_cert = "/etc/shoal-link-tls/tls.crt"
link_tls_key = "/etc/shoal-link-tls/tls.key"
link_tls_client_ca = "/etc/shoal-link-tls/ca.crt"
{{- end }}
{{- with .Values.traces }}
{{- if .endpoint }}
otlp_endpoint = {{ .endpoint | toRawJson }}
trace_sample = {{ .sample }}
trace_keep = {{ .keep | toRawJson }}
{{- if .headersSecret }}
otlp_headers_file = "/etc/shoal-otlp-headers/headers"
{{- end }}
{{- if .caSecret }}
otlp_ca_file = "/etc/shoal-otlp-ca/ca.crt"
{{- end }}
{{- end }}
{{- end }}
{{- range $entry := .Values.access }}
{{- with $entry }}

[[access]]
name = {{ .name | toRawJson }}
{{- with .secret }}
token_file = {{ printf "/etc/shoal-access/%s/token" $entry.name | toRawJson }}
{{- end }}
{{- with .tokenSha256 }}
token_sha256 = {{ . | toRawJson }}
{{- end }}
{{- with .certificate }}
certificate = {{ . | toRawJson }}
{{- end }}
{{- with .tenant }}
tenant = {{ . | toRawJson }}
{{- end }}
rights = {{ .rights | toRawJson }}
{{- if hasKey . "models" }}
models = {{ .models | toRawJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Files that the server reads besides its configuration, from Secrets. (the root) */ -}}
{{- define "shoal.server.secrets" -}}
{{- $secrets := list (dict "name" "worker-token" "path" "/etc/shoal-token") -}}
{{- with include "shoal.tls.clients" . -}}{{- $secrets = append $secrets (dict "name" "tls" "path" "/etc/shoal-tls" "secret" .) -}}{{- end -}}
{{- with include "shoal.tls.link" . -}}{{- $secrets = append $secrets (dict "name" "link-tls" "path" "/etc/shoal-link-tls" "secret" .) -}}{{- end -}}
{{- with .Values.traces -}}
{{- if .endpoint -}}
{{- with .headersSecret -}}{{- $secrets = append $secrets (dict "name" "otlp-headers" "path" "/etc/shoal-otlp-headers" "secret" . "key" $.Values.traces.headersKey "file" "headers") -}}{{- end -}}
{{- with .caSecret -}}{{- $secrets = append $secrets (dict "name" "otlp-ca" "path" "/etc/shoal-otlp-ca" "secret" . "key" "ca.crt" "file" "ca.crt") -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- range $index, $entry := .Values.access -}}
{{- with $entry.secret -}}{{- $secrets = append $secrets (dict "name" (printf "access-%d" $index) "path" (printf "/etc/shoal-access/%s" $entry.name) "secret" .name "key" .key "file" "token") -}}{{- end -}}
{{- end -}}
{{- dict "secrets" $secrets | toJson -}}
{{- end -}}

{{- /* The server's probes: gRPC health's services, or pages that say the same. Startup may depend on workers, liveness must not:
     a restart brings back neither a worker nor a model. */ -}}
{{- define "shoal.server.probes" -}}
{{- $probes := .Values.server.probes -}}
{{- /* The kubelet speaks no TLS over gRPC; the port of metrics never does. */ -}}
{{- $grpc := and (eq $probes.protocol "grpc") (not (include "shoal.tls.clients" .)) -}}
# Every configured model could be served once.
startupProbe:
  {{- if $grpc }}
  grpc: { port: 8001, service: startup }
  {{- else }}
  httpGet: { path: /startupz, port: metrics }
  {{- end }}
  periodSeconds: 1
  failureThreshold: {{ int $probes.startupSeconds }}
# Every configured model can be served, and nobody has asked to stop.
readinessProbe:
  {{- if $grpc }}
  grpc: { port: 8001, service: readiness }
  {{- else }}
  httpGet: { path: /readyz, port: metrics }
  {{- end }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
# The process answers.
livenessProbe:
  {{- if $grpc }}
  grpc: { port: 8001, service: liveness }
  {{- else }}
  httpGet: { path: /livez, port: metrics }
  {{- end }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}
