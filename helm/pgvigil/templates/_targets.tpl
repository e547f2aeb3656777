{{/* The targets: how each is reached, and which pod has it. */}}

{{/* All targets with the defaults in them, as a JSON list. */}}
{{- define "pgvigil.targets" -}}
{{- $all := list -}}
{{- range .Values.targets -}}
{{- $all = append $all (ternary . (mergeOverwrite (deepCopy $.Values.targetDefaults) .) (hasKey . "dsnSecret")) -}}
{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/*
The shard that has the target `name`, of `shards`: the one whose number makes, with the name, the greatest SHA-256. A shard
more takes targets from all others and moves none between them; one less gives away only what it had.
*/}}
{{- define "pgvigil.shardOf" -}}
{{- $greatest := "" -}}
{{- $shard := 0 -}}
{{- range $number := until (int .shards) -}}
{{- $hash := sha256sum (printf "%s/%d" $.name $number) -}}
{{- if gt $hash $greatest -}}
{{- $greatest = $hash -}}
{{- $shard = $number -}}
{{- end -}}
{{- end -}}
{{- $shard -}}
{{- end -}}

{{/* The pods with their targets, as a JSON list of {name, targets}; that of a Deployment is called as the release. */}}
{{- define "pgvigil.pods" -}}
{{- $targets := include "pgvigil.targets" . | fromJsonArray -}}
{{- $fullname := include "pgvigil.fullname" . -}}
{{- $pods := list -}}
{{- if include "pgvigil.sharded" . -}}
{{- $placed := dict -}}
{{- range $targets -}}
{{- $shard := include "pgvigil.shardOf" (dict "name" .name "shards" $.Values.shards) -}}
{{- $_ := set $placed $shard (append (get $placed $shard | default list) .) -}}
{{- end -}}
{{- range $number := until (int .Values.shards) -}}
{{- $pods = append $pods (dict "name" (printf "%s-%d" $fullname $number) "targets" (get $placed (toString $number) | default list)) -}}
{{- end -}}
{{- else -}}
{{- $pods = list (dict "name" $fullname "targets" $targets) -}}
{{- end -}}
{{- toJson $pods -}}
{{- end -}}

{{/* True when there is one target only, which /metrics serves; several have a /probe each. */}}
{{- define "pgvigil.single" -}}
{{- if and (eq (len .Values.targets) 1) (not (include "pgvigil.sharded" .)) (not .Values.settings.discovery) (not .Values.settings.targets_files) }}true{{ end -}}
{{- end -}}

{{- define "pgvigil.port" -}}
{{- int (.port | default (ternary 6432 5432 (eq (.kind | default "") "pgbouncer"))) -}}
{{- end -}}

{{- define "pgvigil.secretPath" -}}
/etc/pgvigil/secrets/{{ .name }}
{{- end -}}

{{/* One value of a connection string of libpq. */}}
{{- define "pgvigil.quoted" -}}
'{{ . | toString | replace "\\" "\\\\" | replace "'" "\\'" }}'
{{- end -}}

{{/* How the exporter reaches one target, as JSON: kind, dsn or dsn_file, and password_file. No secret is in it. */}}
{{- define "pgvigil.connection" -}}
{{- $path := include "pgvigil.secretPath" . -}}
{{- $connection := pick . "kind" -}}
{{- range $theirs, $ours := dict "include_databases" .includeDatabases "exclude_databases" .excludeDatabases "include_tables" .includeTables "exclude_tables" .excludeTables "statements_exclude_users" .statementsExcludeUsers "statements_exclude_databases" .statementsExcludeDatabases -}}
{{- with $ours -}}
{{- $_ := set $connection $theirs . -}}
{{- end -}}
{{- end -}}
{{- if .dsnSecret -}}
{{- $_ := set $connection "dsn_file" (printf "%s/dsn" $path) -}}
{{- else -}}
{{- $ca := ternary (printf "%s/ca.crt" $path) .caFile (hasKey . "ca") -}}
{{- $words := list
      (printf "host=%s" (include "pgvigil.quoted" .host))
      (printf "port=%s" (include "pgvigil.port" .))
      (printf "dbname=%s" (include "pgvigil.quoted" (.database | default (ternary "pgbouncer" "postgres" (eq (.kind | default "") "pgbouncer")))))
      (printf "user=%s" (include "pgvigil.quoted" (.user | default "pgvigil")))
      (printf "sslmode=%s" (.sslmode | default (ternary "verify-full" "require" (not (empty $ca))))) -}}
{{- with $ca -}}
{{- $words = append $words (printf "sslrootcert=%s" .) -}}
{{- end -}}
{{- if .certificateSecret -}}
{{- $words = concat $words (list (printf "sslcert=%s/tls.crt" $path) (printf "sslkey=%s/tls.key" $path)) -}}
{{- end -}}
{{- range $name, $value := .parameters -}}
{{- $words = append $words (printf "%s=%s" $name (include "pgvigil.quoted" $value)) -}}
{{- end -}}
{{- $_ := set $connection "dsn" (join " " $words) -}}
{{- if .passwordSecret -}}
{{- $_ := set $connection "password_file" (printf "%s/password" $path) -}}
{{- end -}}
{{- end -}}
{{- toJson $connection -}}
{{- end -}}

{{/* The exporter's configuration file in a pod with these `targets`. */}}
{{- define "pgvigil.config" -}}
{{- $config := deepCopy .root.Values.settings -}}
{{- if .root.Values.ownCollectors -}}
{{- $_ := set $config "collectors_dir" "/etc/pgvigil/collectors" -}}
{{- end -}}
{{- if include "pgvigil.single" .root -}}
{{- $config = merge $config (include "pgvigil.connection" (first .targets) | fromJson) -}}
{{- else -}}
{{- $targets := list -}}
{{- range .targets -}}
{{- $named := merge (dict "name" .name) (include "pgvigil.connection" . | fromJson) -}}
{{- with .labels -}}
{{- $_ := set $named "labels" . -}}
{{- end -}}
{{- $targets = append $targets $named -}}
{{- end -}}
{{- $_ := set $config "targets" $targets -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What is mounted below /etc/pgvigil/secrets, a folder for each target. */}}
{{- define "pgvigil.secretSources" -}}
{{- range include "pgvigil.targets" . | fromJsonArray }}
{{- $name := .name }}
{{- with .dsnSecret }}
- secret:
    name: {{ .name }}
    items: [{key: {{ .key | default "dsn" | quote }}, path: {{ $name }}/dsn}]
{{- end }}
{{- with .passwordSecret }}
- secret:
    name: {{ .name }}
    items: [{key: {{ .key | default "password" | quote }}, path: {{ $name }}/password}]
{{- end }}
{{- with .certificateSecret }}
- secret:
    name: {{ .name }}
    items:
      - {key: {{ .certKey | default "tls.crt" | quote }}, path: {{ $name }}/tls.crt}
      - {key: {{ .keyKey | default "tls.key" | quote }}, path: {{ $name }}/tls.key}
{{- end }}
{{- with .ca }}
- {{ ternary "secret" "configMap" (hasKey . "secretName") }}:
    name: {{ .secretName | default .configMapName }}
    items: [{key: {{ .key | default "ca.crt" | quote }}, path: {{ $name }}/ca.crt}]
{{- end }}
{{- end }}
{{- end -}}
