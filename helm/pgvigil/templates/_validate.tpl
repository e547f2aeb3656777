{{/* What values.schema.json cannot say, or not so that a person knows what to do. */}}

{{- define "pgvigil.validate" -}}
{{- include "pgvigil.validateTargets" . -}}
{{- include "pgvigil.validateMonitor" . -}}
{{- range .Values.extraEnv -}}
{{- if and (hasKey . "value") (regexMatch "(PASSWORD|DSN)$" .name) -}}
{{- fail (printf "extraEnv: %s: a secret does not belong into values, which Helm keeps in the release: use valueFrom" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pgvigil.validateTargets" -}}
{{- if and .Values.settings.targets_files (include "pgvigil.sharded" .) -}}
{{- fail "settings.targets_files: with shards each pod would watch every server in them. Use shards: 1 and a release for each part of the fleet, or list the servers in targets" -}}
{{- end -}}
{{- if and .Values.settings.discovery (include "pgvigil.sharded" .) -}}
{{- fail "settings.discovery: with shards each pod would watch every server that is found. Use shards: 1 and a release for each part of the fleet, or list the servers in targets" -}}
{{- end -}}
{{- $names := dict -}}
{{- range $key := list "password" "dsn" -}}
{{- if hasKey $.Values.targetDefaults $key -}}
{{- include "pgvigil.refuse" (dict "place" "targetDefaults" "key" $key) -}}
{{- end -}}
{{- range $.Values.targets -}}
{{- if hasKey . $key -}}
{{- include "pgvigil.refuse" (dict "place" (printf "targets: %s" .name) "key" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .Values.targets -}}
{{- if hasKey $names .name -}}
{{- fail (printf "targets: two are called %s" .name) -}}
{{- end -}}
{{- $_ := set $names .name true -}}
{{- if eq (hasKey . "host") (hasKey . "dsnSecret") -}}
{{- fail (printf "targets: %s: give a host or a dsnSecret, one of them" .name) -}}
{{- end -}}
{{- if hasKey . "dsnSecret" -}}
{{- $more := keys (omit . "name" "kind" "dsnSecret" "includeDatabases" "excludeDatabases" "includeTables" "excludeTables" "statementsExcludeUsers" "statementsExcludeDatabases") | sortAlpha -}}
{{- if $more -}}
{{- fail (printf "targets: %s: a dsnSecret says all there is to say; take away %s" .name (join ", " $more)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range include "pgvigil.targets" . | fromJsonArray -}}
{{- if and (hasKey . "ca") (hasKey . "caFile") -}}
{{- fail (printf "targets: %s: give ca or caFile, one of them" .name) -}}
{{- end -}}
{{- if and (hasPrefix "verify-" (.sslmode | default "")) (not (or (hasKey . "ca") (hasKey . "caFile"))) -}}
{{- fail (printf "targets: %s: sslmode %s needs a ca or a caFile to hold the server's certificate against" .name .sslmode) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "pgvigil.refuse" -}}
{{- fail (printf "%s: %s: a secret does not belong into values, which Helm keeps in the release; put it into a Secret and name that in %sSecret: {name: ...}" .place .key .key) -}}
{{- end -}}

{{- define "pgvigil.validateMonitor" -}}
{{- $found := ternary "discovery" "targets_files" (not (empty .Values.settings.discovery)) -}}
{{- if and (or .Values.settings.discovery .Values.settings.targets_files) (has .Values.monitor.kind (list "ServiceMonitor" "PodMonitor" "Probe" "annotations")) -}}
{{- fail (printf "monitor.kind: %s asks for the servers in targets only, and none of settings.%s: use ScrapeConfig, which has Prometheus ask the exporter" .Values.monitor.kind $found) -}}
{{- end -}}
{{- if and (eq .Values.monitor.kind "annotations") (or (gt (len .Values.targets) 1) (include "pgvigil.sharded" .)) -}}
{{- fail "monitor.kind: annotations lead Prometheus to one page of one pod, and several targets have a page each: use ServiceMonitor, PodMonitor or Probe" -}}
{{- end -}}
{{- end -}}
