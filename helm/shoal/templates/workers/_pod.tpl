{{- /* Parts of a worker's pod; each takes (dict "root" $ "pool" with its defaults). */ -}}

{{- define "shoal.worker.resources" -}}
{{- $resources := .pool.resources -}}
{{- with .pool.device.resource -}}
{{- $devices := dict . $.pool.device.count -}}
{{- $limits := merge (dict) (default (dict) $resources.limits) $devices -}}
{{- $requests := merge (dict) (default (dict) $resources.requests) $devices -}}
{{- $resources = dict "requests" $requests "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{- /* What brings weights before the worker starts, so that a pod that cannot have them says so. */ -}}
{{- define "shoal.worker.initContainers" -}}
{{- $root := .root -}}
{{- range $index, $name := .pool.models }}
{{- $model := get $root.Values.models $name }}
{{- $kind := include "shoal.model.kind" (dict "name" $name "model" $model) }}
{{- if include "shoal.model.comes" (dict "name" $name "model" $model) }}
{{- if eq $kind "source" }}
# Held to the catalogue's SHA-256, or of the commit that is named.
- name: pull-{{ regexReplaceAll "[._]" $name "-" | trunc 40 | trimSuffix "-" }}-{{ $index }}
  image: {{ include "shoal.image" $root }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: [models, pull, {{ $model.source | quote }}]
  env:
    - name: SHOAL_HOME
      value: /var/lib/shoal
    {{- with $root.Values.hub.endpoint }}
    - name: HF_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- with $root.Values.hub.tokenSecret }}
    - name: HF_TOKEN
      valueFrom:
        secretKeyRef: { name: {{ . | quote }}, key: {{ $root.Values.hub.tokenKey | quote }} }
    {{- end }}
  resources: {{- toYaml $.pool.resources | nindent 4 }}
  securityContext: {{- toYaml $root.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - { name: home, mountPath: /var/lib/shoal }
    - { name: tmp, mountPath: /tmp }
{{- else }}
- name: download-{{ regexReplaceAll "[._]" $name "-" | trunc 40 | trimSuffix "-" }}-{{ $index }}
  image: {{ $root.Values.downloader.image }}
  command: [sh, -euc]
  args:
    - |
      folder=/var/lib/shoal/downloads/{{ $name }}
      fetch() { # PATH SHA256 URL: brings a file unless it is there, and keeps it only with this hash.
        mkdir -p "$folder/$(dirname "$1")"
        if echo "$2  $folder/$1" | sha256sum -c - >/dev/null 2>&1; then return; fi
        part=$folder/$1.$(hostname).part # other pods may bring the same to the same volume
        trap 'rm -f "$part"' EXIT
        curl --fail --location --silent --show-error --retry 5 --output "$part" "$3"
        if ! echo "$2  $part" | sha256sum -c - >/dev/null; then
          echo "$3: is $(sha256sum "$part" | cut -d' ' -f1), and was to be $2" >&2
          exit 1
        fi
        mv "$part" "$folder/$1"
      }
      {{- range $path, $file := $model.download.files }}
      fetch '{{ $path }}' {{ $file.sha256 }} '{{ $file.url }}'
      {{- end }}
  resources: {{- toYaml $.pool.resources | nindent 4 }}
  securityContext: {{- toYaml $root.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - { name: home, mountPath: /var/lib/shoal }
    - { name: tmp, mountPath: /tmp }
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "shoal.worker.modelMounts" -}}
{{- $root := .root -}}
{{- range $index, $name := .pool.models }}
{{- $model := get $root.Values.models $name }}
{{- if or $model.claim $model.image }}
- { name: model-{{ $index }}, mountPath: {{ printf "/models/%s" $name }}, readOnly: true }
{{- end }}
{{- end }}
{{- end -}}

{{- define "shoal.worker.modelVolumes" -}}
{{- $root := .root -}}
{{- range $index, $name := .pool.models }}
{{- $model := get $root.Values.models $name }}
{{- if $model.claim }}
- name: model-{{ $index }}
  persistentVolumeClaim: { claimName: {{ $model.claim.name | quote }}, readOnly: true }
{{- else if $model.image }}
- name: model-{{ $index }}
  image:
    reference: {{ $model.image.reference }}
    pullPolicy: {{ default "IfNotPresent" $model.image.pullPolicy }}
{{- end }}
{{- end }}
{{- end -}}
