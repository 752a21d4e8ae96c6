{{/* A value as TOML. JSON's texts are TOML's. */}}
{{- define "afflux.toml" -}}
{{- if kindIs "bool" . -}}
{{- ternary "\"on\"" "\"off\"" . -}}
{{- else if kindIs "slice" . -}}
[{{- range $at, $text := . -}}{{- if $at }}, {{ end -}}{{- toRawJson $text -}}{{- end -}}]
{{- else if kindIs "string" . -}}
{{- toRawJson . -}}
{{- else -}}
{{- int64 . -}}
{{- end -}}
{{- end -}}

{{/* What the chart decides, over what `settings` says. */}}
{{- define "afflux.ownSettings" -}}
{{- $host := include "afflux.host" . -}}
{{- $secret := include "afflux.tlsSecret" . -}}
{{- $kind := .Values.settings.registry.kind -}}
{{- $loopback := ternary "[::1]" "127.0.0.1" .Values.ipv6 -}}
{{- $own := dict
    "cluster" (include "afflux.cluster" .)
    "node" (dict "listen" (printf "%s:%d" $host (int64 .Values.ports.node)))
    "health" (dict "listen" (printf "%s:%d" $host (int64 .Values.ports.health)))
    "admin" (dict "listen" (printf "%s:%d" (ternary $host $loopback .Values.admin.expose) (int64 .Values.ports.admin))
                  "tls" (ternary "on" "off" .Values.admin.tls))
    "tls" (dict "mode" (include "afflux.tlsMode" .))
    "pipeline" (dict "start_nodes_min" (int64 (ternary .Values.autoscaling.minReplicas .Values.replicaCount .Values.autoscaling.enabled)))
-}}
{{- with include "afflux.undeclared" . | fromJsonArray -}}
{{- $_ := set $own.pipeline "start" . -}}
{{- end -}}
{{- if .Values.grpc.enabled -}}
{{- $_ := set $own "grpc" (dict "listen" (printf "%s:%d" $host (int64 .Values.ports.grpc))) -}}
{{- end -}}
{{- if $secret -}}
{{- $_ := set $own "tls" (dict "mode" (include "afflux.tlsMode" .) "ca" "/etc/afflux/tls/ca.crt"
    "certificate" "/etc/afflux/tls/tls.crt" "key" "/etc/afflux/tls/tls.key") -}}
{{- end -}}
{{- $auth := dict -}}
{{- if .Values.auth.existingSecret -}}{{- $_ := set $auth "token_file" "/etc/afflux/auth/token" -}}{{- end -}}
{{- if .Values.auth.callersSecret -}}{{- $_ := set $auth "tokens" "/etc/afflux/callers/tokens" -}}{{- end -}}
{{- if .Values.auth.allow -}}{{- $_ := set $auth "allow" .Values.auth.allow -}}{{- end -}}
{{- if $auth -}}{{- $_ := set $own "auth" $auth -}}{{- end -}}
{{- if .Values.checkpoints.url -}}
{{- $_ := set $own "checkpoint" (dict "url" .Values.checkpoints.url "retain" (int64 .Values.checkpoints.retain)
    "interval_ms" (int64 .Values.checkpoints.intervalMs)) -}}
{{- end -}}
{{- $state := default dict .Values.settings.state -}}
{{- if and (eq (default "memory" (get $state "backend")) "disk") (not (get $state "dir")) -}}
{{- /* Beside the working directory: /tmp is small. */ -}}
{{- $_ := set $own "state" (dict "dir" "/var/lib/afflux/state") -}}
{{- end -}}
{{- if eq $kind "dns" -}}
{{- $_ := set $own "registry" (dict "dns_name" (printf "%s:%d" (include "afflux.nodesDomain" .) (int64 .Values.ports.node))) -}}
{{- else if and (eq $kind "kubernetes") (not $secret) -}}
{{- /* With certificates nodes are known by their names, and the slices have addresses: then Leases alone say who is there. */ -}}
{{- $_ := set $own "registry" (dict "service" (include "afflux.headless" .)) -}}
{{- end -}}
{{- toJson $own -}}
{{- end -}}

{{/* Pipelines in short, where settings.pipeline.rescale has them follow nothing: as the other settings say. */}}
{{- define "afflux.undeclared" -}}
{{- $names := list -}}
{{- if ne (default "manual" (get (default dict .Values.settings.pipeline) "rescale")) "auto" -}}
{{- range include "afflux.pipelines" . | fromJsonArray -}}
{{- if not (contains "=" .) -}}{{- $names = append $names . -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{/* A table for each of the others: one task a slot, and those of nodes that join, or a number that stays. */}}
{{- define "afflux.declared" -}}
{{- $undeclared := include "afflux.undeclared" . | fromJsonArray -}}
{{- range include "afflux.pipelines" . | fromJsonArray -}}
{{- if not (has . $undeclared) }}
{{- $word := splitn "=" 2 . }}
[pipelines.{{ ternary (toRawJson $word._0) $word._0 (contains "." $word._0) }}]
start = true
parallelism = {{ ternary "\"auto\"" $word._1 (has $word._1 (list nil "" "auto")) }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "afflux.settings" -}}
{{- $all := mergeOverwrite (deepCopy .Values.settings) (include "afflux.ownSettings" . | fromJson) -}}
{{- range $name, $value := $all -}}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $name }} = {{ include "afflux.toml" $value }}
{{- end -}}
{{- end -}}
{{- range $name, $table := $all -}}
{{- if and (kindIs "map" $table) $table }}
[{{ $name }}]
{{- range $key, $value := $table -}}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "afflux.toml" $value }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "afflux.declared" . }}
{{ end -}}
