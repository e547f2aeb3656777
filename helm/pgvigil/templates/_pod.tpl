{{/* The pod, alike in a Deployment and a StatefulSet. */}}

{{- define "pgvigil.pod" -}}
metadata:
  labels:
    {{- mergeOverwrite (dict) .Values.commonLabels .Values.podLabels (include "pgvigil.labels" . | fromYaml) | toYaml | nindent 4 }}
  annotations:
    # Targets, sources of servers and collectors are read again while the exporter runs; other settings make new pods.
    checksum/config: {{ omit .Values.settings "collectors" "disable" "discovery" "targets_files" | toJson | sha256sum }}
    {{- if eq .Values.monitor.kind "annotations" }}
    prometheus.io/scrape: "true"
    prometheus.io/port: "9187"
    prometheus.io/path: /metrics
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "pgvigil.serviceAccountName" . }}
  automountServiceAccountToken: {{ not (empty (include "pgvigil.podNamespaces" . | fromJsonArray)) }}
  # Else Kubernetes sets variables such as PGVIGIL_PORT for a Service called pgvigil, and the exporter refuses those it does not know.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: pgvigil
      image: {{ include "pgvigil.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [pgvigil, serve]
      env:
        - name: PGVIGIL_LISTEN  # here, since that of the image would win over a configuration file
          value: {{ printf "%s:9187" .Values.listenHost | quote }}
        - name: PGVIGIL_STATE_DIR
          value: /var/lib/pgvigil
        {{- if include "pgvigil.sharded" . }}
        - name: POD_NAME
          valueFrom:
            fieldRef:
              fieldPath: metadata.name
        - name: PGVIGIL_CONFIG
          value: /etc/pgvigil/config/$(POD_NAME).yml
        {{- else }}
        - name: PGVIGIL_CONFIG
          value: /etc/pgvigil/config/pgvigil.yml
        {{- end }}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: metrics
          containerPort: 9187
          protocol: TCP
      startupProbe:
        httpGet: {path: /healthz, port: metrics}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: /healthz, port: metrics}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/pgvigil/config
          readOnly: true
        {{- if .Values.ownCollectors }}
        - name: collectors
          mountPath: /etc/pgvigil/collectors
          readOnly: true
        {{- end }}
        {{- if include "pgvigil.secretSources" . }}
        - name: secrets
          mountPath: /etc/pgvigil/secrets
          readOnly: true
        {{- end }}
        - name: state
          mountPath: /var/lib/pgvigil
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "pgvigil.fullname" . }}
    {{- if .Values.ownCollectors }}
    - name: collectors
      configMap:
        name: {{ include "pgvigil.fullname" . }}-collectors
    {{- end }}
    {{- with include "pgvigil.secretSources" . }}
    - name: secrets
      projected:
        defaultMode: 0440
        sources:
          {{- . | nindent 10 }}
    {{- end }}
    - name: state
      {{- toYaml .Values.stateVolume | nindent 6 }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if include "pgvigil.sharded" . }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "pgvigil.selectorLabels" . | nindent 10 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .Values.hostAliases }}
  hostAliases:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.dnsPolicy }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.dnsConfig }}
  dnsConfig:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
