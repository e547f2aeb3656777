{{/* Names, labels and the image. */}}

{{- define "pgvigil.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* 52 characters at most: what Kubernetes makes of a StatefulSet's name has to fit into a label. */}}
{{- define "pgvigil.fullname" -}}
{{- $name := include "pgvigil.name" . -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $both | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "pgvigil.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{/* What tells our pods from others; never changes, since Kubernetes does not let it. */}}
{{- define "pgvigil.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pgvigil.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: exporter
{{- end -}}

{{- define "pgvigil.labels" -}}
{{ include "pgvigil.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: pgvigil
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/*
The metadata of an object, from `root` and, where given, `suffix` of the name, `name`, `namespace`, `labels` and
`annotations`.
*/}}
{{- define "pgvigil.metadata" -}}
{{- $own := include "pgvigil.labels" .root | fromYaml -}}
{{- $labels := mergeOverwrite (dict) .root.Values.commonLabels (.labels | default dict) $own -}}
name: {{ .name | default (printf "%s%s" (include "pgvigil.fullname" .root) (.suffix | default "")) }}
namespace: {{ .namespace | default (include "pgvigil.namespace" .root) }}
labels:
  {{- toYaml $labels | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "pgvigil.image" -}}
{{- $name := list .Values.image.registry .Values.image.repository | compact | join "/" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces whose pods the exporter lists to find servers, as a JSON list. */}}
{{- define "pgvigil.podNamespaces" -}}
{{- $found := list -}}
{{- range .Values.settings.discovery -}}
{{- if eq .source "kubernetes" -}}
{{- $found = append $found (.namespace | default (include "pgvigil.namespace" $)) -}}
{{- end -}}
{{- end -}}
{{- $found | uniq | toJson -}}
{{- end -}}

{{- define "pgvigil.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "pgvigil.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "pgvigil.sharded" -}}
{{- if gt (int .Values.shards) 1 }}true{{ end -}}
{{- end -}}
