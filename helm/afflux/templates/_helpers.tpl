{{- define "afflux.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 bytes: the names of pods and of the hash of their revision come behind it. */}}
{{- define "afflux.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "afflux.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "afflux.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "afflux.headless" -}}
{{- printf "%s-nodes" (include "afflux.fullname" .) -}}
{{- end -}}

{{- define "afflux.cluster" -}}
{{- default (include "afflux.fullname" .) .Values.cluster -}}
{{- end -}}

{{- define "afflux.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "afflux.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "afflux.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- if .Values.image.digest -}}{{- $image = printf "%s@%s" $image .Values.image.digest -}}{{- end -}}
{{- $image -}}
{{- end -}}

{{/* What every pod of the release has, the test's too. */}}
{{- define "afflux.releaseLabels" -}}
app.kubernetes.io/name: {{ include "afflux.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What the nodes alone have. */}}
{{- define "afflux.nodeLabels" -}}
{{ include "afflux.releaseLabels" . }}
app.kubernetes.io/component: node
{{- end -}}

{{- define "afflux.labels" -}}
{{ include "afflux.releaseLabels" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The Secret with the certificates; empty without TLS. */}}
{{- define "afflux.tlsSecret" -}}
{{- if .Values.tls.existingSecret -}}
{{- .Values.tls.existingSecret -}}
{{- else if .Values.tls.issuerRef.name -}}
{{- printf "%s-tls" (include "afflux.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* Certificates turn mutual TLS on; without them there is none, and that is said loudly. */}}
{{- define "afflux.tlsMode" -}}
{{- if .Values.tls.mode -}}
{{- .Values.tls.mode -}}
{{- else -}}
{{- ternary "mutual" "insecure" (ne (include "afflux.tlsSecret" .) "") -}}
{{- end -}}
{{- end -}}

{{/* The name under which certificates know the nodes of the release. */}}
{{- define "afflux.nodesDomain" -}}
{{- printf "%s.%s.svc.%s" (include "afflux.headless" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{/* Nodes at most, over the life of the release. */}}
{{- define "afflux.nodesMax" -}}
{{- if .Values.autoscaling.enabled -}}{{ .Values.autoscaling.maxReplicas }}{{- else -}}{{ .Values.replicaCount }}{{- end -}}
{{- end -}}

{{/*
Seconds that a node may need to leave: its tasks handed over, found for the lame duck's time, then its locks given back, its record
taken out and its calls answered, each within the grace; five more for what closes behind that, ten for spans.
*/}}
{{- define "afflux.drainSeconds" -}}
{{- $drain := default dict .Values.settings.drain -}}
{{- $lame := int64 (default 0 (get $drain "lame_duck_ms")) -}}
{{- $tasks := int64 5000 -}}
{{- if hasKey $drain "hand_over_ms" -}}{{- $tasks = int64 (get $drain "hand_over_ms") -}}{{- end -}}
{{- $grace := int64 2000 -}}
{{- if hasKey $drain "grace_ms" -}}{{- $grace = int64 (get $drain "grace_ms") -}}{{- end -}}
{{- $spans := ternary 10 0 (ne (default "" (get (default dict .Values.settings.trace) "otlp_endpoint")) "") -}}
{{- add (div (add $tasks $lame (mul 3 $grace) 999) 1000) 5 $spans -}}
{{- end -}}

{{- define "afflux.terminationSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- include "afflux.drainSeconds" . -}}
{{- else -}}
{{- int64 .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* The pipelines to start, as a JSON list: without a word of the user's, that of the default image. */}}
{{- define "afflux.pipelines" -}}
{{- $start := .Values.pipelines.start -}}
{{- if kindIs "invalid" $start -}}
{{- $start = ternary (list "hourly-delays") list (eq .Values.image.repository "afflux/flights") -}}
{{- end -}}
{{- $words := list -}}
{{- range $start -}}
{{- if kindIs "map" . -}}
{{- $tasks := default "auto" .parallelism -}}
{{- $words = append $words (printf "%s=%s" .name (ternary (toString $tasks) (int64 $tasks | toString) (kindIs "string" $tasks))) -}}
{{- else -}}
{{- $words = append $words . -}}
{{- end -}}
{{- end -}}
{{- toJson $words -}}
{{- end -}}

{{- define "afflux.host" -}}
{{- ternary "[::]" "0.0.0.0" .Values.ipv6 -}}
{{- end -}}

{{/* The rest of a container that runs the image: what is mounted, and what the environment says. */}}
{{- define "afflux.secretMounts" -}}
{{- if .Values.auth.existingSecret }}
- name: token
  mountPath: /etc/afflux/auth
  readOnly: true
{{- end }}
{{- if .Values.auth.callersSecret }}
- name: callers
  mountPath: /etc/afflux/callers
  readOnly: true
{{- end }}
{{- if include "afflux.tlsSecret" . }}
- name: tls
  mountPath: /etc/afflux/tls
  readOnly: true
{{- end }}
{{- end -}}
