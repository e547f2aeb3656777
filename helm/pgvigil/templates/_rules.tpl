{{/*
The alert rules with a person's values in them. As `pgvigil rules DIR --values FILE` does it, with the same regular
expressions: exporter/rules.py says what they find, and a test compares what comes of both.
*/}}

{{/* The pattern of an alert, from its comment to the next rule. */}}
{{- define "pgvigil.alertPattern" -}}
(?m)(?:^ {6}#.*\n)*^ {6}- alert: \w+\n(?:(?: {8}.*)?\n)*
{{- end -}}

{{- define "pgvigil.alertName" -}}
{{- regexFind "- alert: \\w+" . | trimPrefix "- alert: " -}}
{{- end -}}

{{/* Fail where values name an alert or a threshold that there is not. */}}
{{- define "pgvigil.validateRules" -}}
{{- $values := .Values.prometheusRule.values -}}
{{- $known := dict -}}
{{- range $path, $_ := .Files.Glob "files/rules/*.yml" -}}
{{- range regexFindAll (include "pgvigil.alertPattern" $) ($.Files.Get $path) -1 -}}
{{- $thresholds := list "for" "severity" -}}
{{- range regexFindAll "\\b[0-9][0-9.e]* +# [a-z][a-z0-9_]*: " . -1 -}}
{{- $thresholds = append $thresholds (regexFind "[a-z][a-z0-9_]*: $" . | trimSuffix ": ") -}}
{{- end -}}
{{- $_ := set $known (include "pgvigil.alertName" .) ($thresholds | uniq | sortAlpha) -}}
{{- end -}}
{{- end -}}
{{- range $place, $names := dict "disable" $values.disable "overrides" (keys $values.overrides) -}}
{{- range $names -}}
{{- if not (hasKey $known .) -}}
{{- fail (printf "prometheusRule.values.%s.%s: no such alert; there are: %s" $place . (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $override := $values.overrides -}}
{{- range keys $override -}}
{{- if not (has . (get $known $name)) -}}
{{- fail (printf "prometheusRule.values.overrides.%s.%s: no such threshold; there are: %s" $name . (get $known $name | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The `alert` as `values` want it, with these `labels`. */}}
{{- define "pgvigil.alert" -}}
{{- $alert := .alert -}}
{{- range $link, $bases := dict
      "runbook_url" (list "https://github.com/pgvigil/pgvigil/blob/main/alerts/runbooks" .values.runbookBaseUrl)
      "dashboard_url" (list "https://grafana.example.com" .values.dashboardBaseUrl) -}}
{{- with regexReplaceAll "/+$" (last $bases) "" -}}
{{- $alert = replace (printf "%s/" (first $bases)) (printf "%s/" .) $alert -}}
{{- else -}}
{{- $alert = regexReplaceAll (printf "(?m)^ {10}%s: .*\n" $link) $alert "" -}}
{{- end -}}
{{- end -}}
{{- range $key, $value := .override -}}
{{- if eq $key "severity" -}}
{{- $alert = regexReplaceAll "(?m)^( {10}severity: )\\w+$" $alert (printf "${1}%s" $value) -}}
{{- else if ne $key "for" -}}
{{- $alert = regexReplaceAll (printf "\\b[0-9][0-9.e]*( +# %s: )" $key) $alert (printf "%s${1}" (toJson $value)) -}}
{{- else if regexMatch "(?m)^ {8}for: " $alert -}}
{{- $alert = regexReplaceAll "(?m)^( {8}for: )\\S+" $alert (printf "${1}%s" $value) -}}
{{- else -}}
{{- $alert = regexReplaceAll "(?m)^( {8}labels:)$" $alert (printf "        for: %s\n${1}" $value) -}}
{{- end -}}
{{- end -}}
{{- $severity := regexFind "(?m)^ {10}severity: \\w+$" $alert -}}
{{- range $name, $value := .labels -}}
{{- $alert = replace $severity (printf "          %s: %s\n%s" $name (toRawJson $value) $severity) $alert -}}
{{- end -}}
{{- $alert -}}
{{- end -}}

{{/* The text of one rule file with the values in it; nothing when no rule is left of it. */}}
{{- define "pgvigil.rules" -}}
{{- $values := .root.Values.prometheusRule.values -}}
{{- $labels := $values.labels -}}
{{- with .root.Values.alertmanagerConfig -}}
{{- if .enabled -}}
{{- $labels = merge (dict "namespace" (.namespace | default (include "pgvigil.namespace" $.root))) $labels -}}
{{- end -}}
{{- end -}}
{{- $text := .text -}}
{{- range $alert := regexFindAll (include "pgvigil.alertPattern" .) $text -1 -}}
{{- $name := include "pgvigil.alertName" $alert -}}
{{- if has $name $values.disable -}}
{{- $text = replace $alert "" $text -}}
{{- else -}}
{{- $override := get $values.overrides $name | default dict -}}
{{- $changed := include "pgvigil.alert" (dict "alert" $alert "values" $values "override" $override "labels" $labels) -}}
{{- $text = replace $alert $changed $text -}}
{{- end -}}
{{- end -}}
{{- if regexMatch "(?m)^ {6}- " $text -}}
{{- $text | trimAll "\n" -}}
{{- end -}}
{{- end -}}
