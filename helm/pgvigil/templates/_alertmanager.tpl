{{/* alerts/alertmanager.yml, as the Prometheus Operator writes it. */}}

{{/* YAML of a list or a map; some readers take a bare = for something of YAML 1.1. */}}
{{- define "pgvigil.alertmanagerYaml" -}}
{{- toYaml . | replace "matchType: =\n" "matchType: \"=\"\n" -}}
{{- end -}}

{{/* A list of matchers such as `severity = "critical"`, as JSON. */}}
{{- define "pgvigil.matchers" -}}
{{- $matchers := list -}}
{{- range . -}}
{{- $parts := regexSplit " " . 3 -}}
{{- $matchers = append $matchers (dict "name" (index $parts 0) "matchType" (index $parts 1) "value" (index $parts 2 | trimAll "\"")) -}}
{{- end -}}
{{- toJson $matchers -}}
{{- end -}}

{{/* A route and those below it, as JSON. */}}
{{- define "pgvigil.route" -}}
{{- $route := dict -}}
{{- range $theirs, $ours := dict "receiver" "receiver" "groupBy" "group_by" "groupWait" "group_wait" "groupInterval" "group_interval" "repeatInterval" "repeat_interval" -}}
{{- with get $ $ours -}}
{{- $_ := set $route $theirs . -}}
{{- end -}}
{{- end -}}
{{- with .matchers -}}
{{- $_ := set $route "matchers" (include "pgvigil.matchers" . | fromJsonArray) -}}
{{- end -}}
{{- $routes := list -}}
{{- range .routes -}}
{{- $routes = append $routes (include "pgvigil.route" . | fromJson) -}}
{{- end -}}
{{- with $routes -}}
{{- $_ := set $route "routes" . -}}
{{- end -}}
{{- toJson $route -}}
{{- end -}}

{{/*
A `text` that stands by itself: with the definitions of the `templates` that it uses, and those that they use. The Operator
does not load template files, and a message whose template is missing is not sent at all.
*/}}
{{- define "pgvigil.selfContained" -}}
{{- $blocks := regexSplit "\n\n" .templates -1 -}}
{{- $used := list -}}
{{- $all := .text -}}
{{- range until 4 -}}{{- /* deeper than they go */ -}}
{{- range $blocks -}}
{{- $name := regexFind "define \"[^\"]+\"" . | trimPrefix "define " -}}
{{- if and $name (contains (printf "template %s" $name) $all) (not (has . $used)) -}}
{{- $used = append $used . -}}
{{- end -}}
{{- end -}}
{{- $all = print (join "\n" $used) $.text -}}
{{- end -}}
{{- $all -}}
{{- end -}}

{{/*
One integration of a receiver with PagerDuty, as JSON; its routing key is that of `key` in the Secret. The link to
the exporter's incidents is made of the label instance there, which here is a target's name: so it is `incidentsUrl` or none.
*/}}
{{- define "pgvigil.pagerduty" -}}
{{- $ours := .integration -}}
{{- $templates := .root.Files.Get "files/pagerduty.tmpl" -}}
{{- $theirs := dict "sendResolved" $ours.send_resolved "severity" $ours.severity "routingKey" (dict "name" .secret "key" .key) -}}
{{- range list "description" "source" "class" "component" "group" -}}
{{- $_ := set $theirs . (include "pgvigil.selfContained" (dict "text" (get $ours .) "templates" $templates)) -}}
{{- end -}}
{{- $links := list -}}
{{- range $ours.links -}}
{{- if not (contains "pgvigil.incidents" .href) -}}
{{- $links = append $links (dict "alt" .text "href" (include "pgvigil.selfContained" (dict "text" .href "templates" $templates))) -}}
{{- else if $.incidentsUrl -}}
{{- $links = append $links (dict "alt" .text "href" $.incidentsUrl) -}}
{{- end -}}
{{- end -}}
{{- $details := list -}}
{{- range $key, $text := $ours.details -}}
{{- $details = append $details (dict "key" $key "value" (include "pgvigil.selfContained" (dict "text" $text "templates" $templates))) -}}
{{- end -}}
{{- toJson (merge $theirs (dict "pagerDutyLinkConfigs" $links "details" $details)) -}}
{{- end -}}

{{/* The receivers, as a JSON list. */}}
{{- define "pgvigil.receivers" -}}
{{- $values := .root.Values.alertmanagerConfig -}}
{{- $keys := dict "page" $values.pagerdutySecret.pageKey "ticket" $values.pagerdutySecret.ticketKey -}}
{{- $receivers := list -}}
{{- range $ours := .config.receivers -}}
{{- $theirs := dict "name" .name -}}
{{- range .pagerduty_configs -}}
{{- $integration := include "pgvigil.pagerduty" (dict "root" $.root "integration" . "secret" $values.pagerdutySecret.name "key" (get $keys $ours.name) "incidentsUrl" $values.incidentsUrl) -}}
{{- $_ := set $theirs "pagerdutyConfigs" (append (get $theirs "pagerdutyConfigs" | default list) ($integration | fromJson)) -}}
{{- end -}}
{{- if and .webhook_configs $values.deadMansSwitchSecret.name -}}
{{- $_ := set $theirs "webhookConfigs" (list (dict "urlSecret" (pick $values.deadMansSwitchSecret "name" "key") "sendResolved" false)) -}}
{{- end -}}
{{- $receivers = append $receivers $theirs -}}
{{- end -}}
{{- toJson $receivers -}}
{{- end -}}
