{{- /* What values.schema.json cannot see: values that do not go together. Messages begin with the value to change. */ -}}
{{- define "shoal.checks" -}}
{{- $values := .Values -}}
{{- if not $values.image.repository -}}
{{- fail "image.repository: is required, since no image is published: build helm/image/Dockerfile and say where it is" -}}
{{- end -}}
{{- if not $values.models -}}
{{- fail "models: is empty: state what to serve, such as models.minilm.source=minilm" -}}
{{- end -}}
{{- range $name, $model := $values.models -}}
{{- $kind := include "shoal.model.kind" (dict "name" $name "model" $model) -}}
{{- if and (eq $kind "image") (semverCompare "<1.35.0-0" $.Capabilities.KubeVersion.Version) -}}
{{- fail (printf "models.%s.image: needs Kubernetes 1.35, where volumes of images are on by default, and this is %s: use a claim" $name $.Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- $set := default (dict) $model.settings -}}
{{- if and $set.unload_after (ne (default "start" $set.load) "demand") -}}
{{- fail (printf "models.%s.settings.unload_after: needs load: demand" $name) -}}
{{- end -}}
{{- if ne (hasKey $set "canary_of") (hasKey $set "canary_percent") -}}
{{- fail (printf "models.%s.settings: canary_of and canary_percent go together" $name) -}}
{{- end -}}
{{- with dig "settings" "canary_of" "" $model -}}
{{- if not (hasKey $values.models .) -}}{{- fail (printf "models.%s.settings.canary_of: there is no models.%s" $name .) -}}{{- end -}}
{{- end -}}
{{- if and (eq $kind "download") (not $values.downloader.image) -}}
{{- fail (printf "downloader.image: is required by models.%s.download: an image with sh, curl and sha256sum" $name) -}}
{{- end -}}
{{- end -}}
{{- $names := list -}}
{{- $served := list -}}
{{- $kept := list -}}
{{- $woken := list -}}
{{- range $index, $stated := $values.pools -}}
{{- $pool := include "shoal.pool" (dict "root" $ "pool" $stated) | fromJson -}}
{{- $where := printf "pools[%d] (%s)" $index $pool.name -}}
{{- if has $pool.name $names -}}{{- fail (printf "pools[%d].name: %s is the name of another pool" $index $pool.name) -}}{{- end -}}
{{- $names = append $names $pool.name -}}
{{- $scale := $pool.autoscaling -}}
{{- $mayBeEmpty := and (ne $scale.kind "none") (eq (int $scale.minReplicas) 0) -}}
{{- if and $mayBeEmpty (gt (int $values.server.replicas) 1) (not $scale.keda.triggers) -}}
{{- fail (printf "%s.autoscaling.minReplicas: 0 needs server.replicas 1: KEDA asks one server, which knows nothing of calls that wait with another" $where) -}}
{{- end -}}
{{- range $pool.models -}}
{{- if not (hasKey $values.models .) -}}{{- fail (printf "%s.models: there is no models.%s" $where .) -}}{{- end -}}
{{- if and $mayBeEmpty (has . $woken) -}}
{{- fail (printf "%s.models: %s is of another pool that may have no pods (autoscaling.minReplicas: 0), and each would leave its calls to the other" $where .) -}}
{{- end -}}
{{- $served = append $served . -}}
{{- if $mayBeEmpty -}}{{- $woken = append $woken . -}}{{- else -}}{{- $kept = append $kept . -}}{{- end -}}
{{- end -}}
{{- if and (gt (int $pool.device.count) 1) (regexMatch "^nvidia\\.com/(gpu|gpu\\.shared|mig-.*)$" $pool.device.resource) -}}
{{- fail (printf "%s.device.count: a worker uses one GPU: ask for more replicas, each with 1" $where) -}}
{{- end -}}
{{- if and (ne $scale.kind "none") (gt (int $scale.minReplicas) (int $scale.maxReplicas)) -}}
{{- fail (printf "%s.autoscaling.minReplicas: %d is more than maxReplicas, %d" $where (int $scale.minReplicas) (int $scale.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $scale.kind "hpa") (not $scale.hpa.metrics) -}}
{{- if $pool.device.resource -}}
{{- fail (printf "%s.autoscaling.hpa.metrics: is required on a GPU, of whose use the processor's says nothing; or use kind keda" $where) -}}
{{- end -}}
{{- if not (dig "requests" "cpu" "" $pool.resources) -}}
{{- fail (printf "%s.resources.requests.cpu: is required by autoscaling.hpa.cpuUtilization, which is a part of it" $where) -}}
{{- end -}}
{{- end -}}
{{- if and $mayBeEmpty (eq $scale.kind "hpa") -}}
{{- fail (printf "%s.autoscaling.minReplicas: 0 needs kind keda: a HorizontalPodAutoscaler keeps one pod" $where) -}}
{{- end -}}
{{- if and (eq $scale.kind "keda") (eq $scale.keda.source "prometheus") (not $scale.keda.triggers) -}}
{{- if not $values.monitoring.prometheusAddress -}}
{{- fail (printf "monitoring.prometheusAddress: is required by %s.autoscaling.keda.source prometheus" $where) -}}
{{- end -}}
{{- if $mayBeEmpty -}}
{{- fail (printf "%s.autoscaling.minReplicas: 0 needs keda.source server: of a pool without workers Prometheus hears nothing" $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $model := $values.models -}}
{{- if not (or (has $name $kept) (not (has $name $served)) (eq (dig "settings" "load" "start" $model) "demand")) -}}
{{- fail (printf "models.%s.settings.load: must be demand where each pool that serves it may have no pods (autoscaling.minReplicas: 0), or the server is not ready without them" $name) -}}
{{- end -}}
{{- if not (has $name $served) -}}{{- fail (printf "models.%s: no pool serves it, so the server would never be ready" $name) -}}{{- end -}}
{{- end -}}
{{- if and (gt (int $values.server.replicas) 1) $values.server.home.claim -}}
{{- fail "server.home.claim: is one server's own, and server.replicas is more than 1" -}}
{{- end -}}
{{- if and (ne $values.tls.clients.clientAuth "off") (not (include "shoal.tls.clients" $)) -}}
{{- fail "tls.clients.clientAuth: needs tls.clients.secret or tls.certManager.issuer" -}}
{{- end -}}
{{- if ne (empty $values.tls.link.secret) (empty $values.tls.link.workerSecret) -}}
{{- fail "tls.link: secret and workerSecret go together: each side shows the other a certificate" -}}
{{- end -}}
{{- $callers := list -}}
{{- $proofs := list -}}
{{- range $index, $entry := $values.access -}}
{{- if has $entry.name $callers -}}{{- fail (printf "access[%d].name: %s is the name of another entry" $index $entry.name) -}}{{- end -}}
{{- $callers = append $callers $entry.name -}}
{{- if and (hasKey $entry "models") (or (has "control" $entry.rights) (has "admin" $entry.rights)) -}}
{{- fail (printf "access[%d].models: not with the right control or admin, which are of all models" $index) -}}
{{- end -}}
{{- $proof := default $entry.certificate $entry.tokenSha256 -}}
{{- if and $proof (has $proof $proofs) -}}{{- fail (printf "access[%d]: shows what another entry shows" $index) -}}{{- end -}}
{{- $proofs = append $proofs $proof -}}
{{- if and $entry.certificate (eq $values.tls.clients.clientAuth "off") -}}
{{- fail (printf "access[%d].certificate: needs tls.clients.clientAuth optional or required" $index) -}}
{{- end -}}
{{- range $entry.models -}}
{{- if not (hasKey $values.models .) -}}{{- fail (printf "access[%d].models: there is no models.%s" $index .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.grpcRoute.enabled (include "shoal.tls.clients" $) -}}
{{- fail "grpcRoute.enabled: a Gateway would speak no TLS to the server: end TLS there, or leave the route out" -}}
{{- end -}}
{{- if and $values.grpcRoute.enabled (not $values.grpcRoute.parentRefs) -}}
{{- fail "grpcRoute.parentRefs: is required by grpcRoute.enabled: name the Gateway" -}}
{{- end -}}
{{- end -}}
