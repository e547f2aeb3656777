{{/* What Prometheus asks of which pod. */}}

{{/* Relabelings, as JSON, of what `pod` serves about `instance`; a pod is told apart only where there are several. */}}
{{- define "pgvigil.relabelings" -}}
{{- $monitor := .root.Values.monitor -}}
{{- $all := list -}}
{{- if include "pgvigil.sharded" .root -}}
{{- $all = append $all (dict "action" "keep" "sourceLabels" (list "__meta_kubernetes_pod_name") "regex" .pod) -}}
{{- end -}}
{{- $all = concat $all (list
      (dict "targetLabel" "job" "replacement" $monitor.job)
      (dict "targetLabel" "instance" "replacement" .instance)
      (dict "action" "labeldrop" "regex" "pod|container|endpoint|service")) -}}
{{- toJson (concat $all $monitor.relabelings) -}}
{{- end -}}

{{/*
The endpoints of a ServiceMonitor or PodMonitor, as a JSON list: one a target, whose name becomes the label `instance`, so
that its series stay the same when a pod comes or goes. Of several targets each has a page, and each pod one of its own.
*/}}
{{- define "pgvigil.endpoints" -}}
{{- $monitor := .Values.monitor -}}
{{- $all := list -}}
{{- range $pod := include "pgvigil.pods" . | fromJsonArray -}}
{{- $pages := list (dict "path" "/metrics" "instance" $pod.name) -}}
{{- if include "pgvigil.single" $ -}}
{{- $pages = list (dict "path" "/metrics" "instance" (first $pod.targets).name) -}}
{{- else -}}
{{- range $pod.targets -}}
{{- $pages = append $pages (dict "path" "/probe" "instance" .name "params" (dict "target" (list .name))) -}}
{{- end -}}
{{- end -}}
{{- range $pages -}}
{{- $relabelings := include "pgvigil.relabelings" (dict "root" $ "pod" $pod.name "instance" .instance) | fromJsonArray -}}
{{- $endpoint := dict "port" "metrics" "path" .path "interval" $monitor.interval "scrapeTimeout" $monitor.scrapeTimeout "relabelings" $relabelings -}}
{{- with .params -}}
{{- $_ := set $endpoint "params" . -}}
{{- end -}}
{{- with $monitor.metricRelabelings -}}
{{- $_ := set $endpoint "metricRelabelings" . -}}
{{- end -}}
{{- $all = append $all $endpoint -}}
{{- end -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}
