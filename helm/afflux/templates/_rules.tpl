{{/* files/rules.yaml for this release: its series, its limits, its runbook. */}}
{{- define "afflux.rules" -}}
{{- $rules := .Values.monitoring.rules -}}
{{- $interval := div (int64 .Values.checkpoints.intervalMs) 1000 -}}
{{- $text := .Files.Get "files/rules.yaml"
    | replace "%selector%" (printf "namespace=%q,job=%q" .Release.Namespace .Release.Name)
    | replace "%lagSeconds%" (toString $rules.lagSeconds)
    | replace "%errorRatio%" (toString $rules.errorRatio)
    | replace "%latencySeconds%" (toString $rules.latencySeconds)
    | replace "%restarts%" (toString (int64 $rules.restarts))
    | replace "%checkpointAgeSeconds%" (toString (max 600 (mul 3 $interval))) -}}
{{- $all := fromYaml $text -}}
{{- range $all.groups -}}
{{- $_ := set . "name" (printf "%s/%s" (include "afflux.fullname" $) .name) -}}
{{- range .rules -}}
{{- if .alert -}}
{{- if $rules.for -}}{{- $_ := set . "for" $rules.for -}}{{- end -}}
{{- $_ := set .annotations "runbook_url" (printf "%s#%s" $rules.runbookUrl (lower .alert)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}
