{{/* What no schema can say: values that do not fit together, each with its cure. */}}
{{- define "afflux.validate" -}}
{{- $v := .Values -}}
{{- $needed := include "afflux.drainSeconds" . | int64 -}}
{{- $given := include "afflux.terminationSeconds" . | int64 -}}
{{- if lt $given $needed -}}
{{- fail (printf "terminationGracePeriodSeconds = %d is less than the %d s that a node may need to leave (settings.drain): leave it out, or shorten settings.drain.hand_over_ms, lame_duck_ms and grace_ms" $given $needed) -}}
{{- end -}}
{{- if and $v.tls.existingSecret $v.tls.issuerRef.name -}}
{{- fail "tls.existingSecret and tls.issuerRef.name are two sources of certificates: keep one" -}}
{{- end -}}
{{- $secret := include "afflux.tlsSecret" . -}}
{{- if and (has $v.tls.mode (list "server" "mutual")) (not $secret) -}}
{{- fail (printf "tls.mode = %s wants certificates: set tls.existingSecret or tls.issuerRef.name" $v.tls.mode) -}}
{{- end -}}
{{- if and (eq $v.tls.mode "insecure") $secret -}}
{{- fail "tls.mode = insecure, and there are certificates: leave tls.mode out, they turn mutual TLS on" -}}
{{- end -}}
{{- if and $v.admin.tls (not $secret) -}}
{{- fail "admin.tls wants certificates: set tls.existingSecret or tls.issuerRef.name" -}}
{{- end -}}
{{- if and $v.admin.expose (not (or $v.auth.existingSecret $v.auth.callersSecret)) -}}
{{- fail "admin.expose opens the admin port to others, and nobody is asked who they are: set auth.existingSecret or auth.callersSecret, or use kubectl port-forward" -}}
{{- end -}}
{{- if and $v.auth.allow (not (or $v.auth.callersSecret (eq (include "afflux.tlsMode" .) "mutual"))) -}}
{{- fail "auth.allow has rules, and all callers are alike: set auth.callersSecret, or certificates (tls)" -}}
{{- end -}}
{{- if $v.ingress.enabled -}}
{{- if and (eq $v.ingress.backend "admin") (not $v.admin.expose) -}}
{{- fail "ingress.backend = admin, and the admin port is on loopback: set admin.expose, with auth.existingSecret" -}}
{{- end -}}
{{- if and (eq $v.ingress.backend "grpc") (not $v.grpc.enabled) -}}
{{- fail "ingress.backend = grpc, and there is no port for gRPC: set grpc.enabled (the program wants the feature grpc)" -}}
{{- end -}}
{{- if not $v.ingress.hosts -}}
{{- fail "ingress.enabled, and ingress.hosts is empty: name a host" -}}
{{- end -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $name, $port := $v.ports -}}
{{- $key := printf "p%d" (int64 $port) -}}
{{- if hasKey $seen $key -}}
{{- fail (printf "ports.%s and ports.%s are both %d: give each its own" (get $seen $key) $name (int64 $port)) -}}
{{- end -}}
{{- $_ := set $seen $key $name -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int64 $v.autoscaling.minReplicas) (int64 $v.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas = %d is more than autoscaling.maxReplicas = %d" (int64 $v.autoscaling.minReplicas) (int64 $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if and (eq $v.autoscaling.kind "keda") (not $v.autoscaling.prometheusAddress) -}}
{{- fail "autoscaling.kind = keda asks Prometheus: set autoscaling.prometheusAddress, such as http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- end -}}
{{- $declared := dict -}}
{{- range include "afflux.pipelines" . | fromJsonArray -}}
{{- $name := (splitn "=" 2 .)._0 -}}
{{- if hasKey $declared $name -}}
{{- fail (printf "pipelines.start names %s twice: keep one" $name) -}}
{{- end -}}
{{- $_ := set $declared $name true -}}
{{- end -}}
{{- $guarantee := get (default dict $v.settings.pipeline) "guarantee" -}}
{{- if and (eq (default "any" $guarantee) "exactly_once") (not $v.checkpoints.url) -}}
{{- fail "settings.pipeline.guarantee = exactly_once, and without checkpoints.url state is lost with its pod: set checkpoints.url" -}}
{{- end -}}
{{- if and (or (hasPrefix "/" $v.checkpoints.url) (hasPrefix "file:" $v.checkpoints.url)) (not $v.checkpoints.existingClaim) -}}
{{- fail (printf "checkpoints.url = %s is a directory, and each pod has its own disk: name a volume that all pods share in checkpoints.existingClaim, or use a bucket (s3://)" $v.checkpoints.url) -}}
{{- end -}}
{{- if and $v.checkpoints.existingClaim (not (or (eq $v.checkpoints.url "/checkpoints") (eq $v.checkpoints.url "file:///checkpoints") (hasPrefix "/checkpoints/" $v.checkpoints.url) (hasPrefix "file:///checkpoints/" $v.checkpoints.url))) -}}
{{- fail (printf "checkpoints.existingClaim is mounted at /checkpoints, and checkpoints.url = %s is elsewhere: set it to file:///checkpoints" (quote $v.checkpoints.url)) -}}
{{- end -}}
{{- $registry := $v.settings.registry -}}
{{- if and (has $registry.kind (list "etcd" "zookeeper")) (not $registry.endpoints) -}}
{{- fail (printf "settings.registry.kind = %s, and settings.registry.endpoints is empty: name its servers" $registry.kind) -}}
{{- end -}}
{{- if and (eq $registry.kind "dns") (include "afflux.pipelines" . | fromJsonArray) -}}
{{- fail "settings.registry.kind = dns has no leases, and pipelines need a leader: set pipelines.start to [], or take kubernetes, etcd or zookeeper" -}}
{{- end -}}
{{- range $v.extraEnv -}}
{{- if has .name (list "AFFLUX_TOKEN" "AFFLUX_CONFIG" "AFFLUX_NODE_ID" "AFFLUX_NODE_ADVERTISE") -}}
{{- fail (printf "extraEnv: %s is set by the chart; a token belongs into a Secret (auth.existingSecret)" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
