{{/* The operator's objects: flotilla-operator in a release that is named flotilla. */}}
{{- define "flotilla.name" -}}
{{ printf "%s-operator" (.Release.Name | trunc 53 | trimSuffix "-") }}
{{- end }}

{{/* Cluster-scoped objects carry the namespace too, so that two releases of one name do not fight over them. */}}
{{- define "flotilla.clusterName" -}}
{{ printf "%s:%s" .Release.Namespace (include "flotilla.name" .) }}
{{- end }}

{{- define "flotilla.selector" -}}
app.kubernetes.io/name: flotilla
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* Labels of every object but the component, which is the operator's own pods' alone. */}}
{{- define "flotilla.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: flotilla
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: flotilla
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* An image reference of {repository, tag, digest} and the tag to use when it names none. */}}
{{- define "flotilla.image" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default (index . 1) $image.tag) }}
{{- end -}}
{{- end }}

{{- define "flotilla.operatorImage" -}}
{{ include "flotilla.image" (list .Values.image .Chart.AppVersion) }}
{{- end }}

{{/* The pod's half of Pod Security "restricted"; not values, because it is a floor. */}}
{{- define "flotilla.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "flotilla.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Every flag of the operator; the check of `helm test` runs with the same ones. */}}
{{- define "flotilla.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with .Values.watchNamespaces }}
- name: FLOTILLA_WATCH_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.metricsNamespaces }}
- name: FLOTILLA_METRICS_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
- name: FLOTILLA_HTTP_ADDRESS
  value: 0.0.0.0:8080
# Also with one replica: a rolling update runs two for a moment, and only one of them may write.
- name: FLOTILLA_LEADER_ELECT
  value: "true"
- name: FLOTILLA_LEASE_NAME
  value: {{ include "flotilla.name" . }}
- name: FLOTILLA_SERVER_IMAGE
  value: {{ include "flotilla.image" (list .Values.server.image (printf "%s-cpu" .Chart.AppVersion)) }}
- name: FLOTILLA_SCRAPE_INTERVAL_SECONDS
  value: {{ .Values.scrapeIntervalSeconds | quote }}
{{- if .Values.podDeletionCost.enabled }}
- name: FLOTILLA_POD_DELETION_COST
  value: "true"
{{- end }}
- name: FLOTILLA_MAX_CONCURRENT_RECONCILES
  value: {{ .Values.maxConcurrentReconciles | quote }}
{{- if .Values.externalScaler.enabled }}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: FLOTILLA_SCALER_ADDRESS
  value: {{ printf "0.0.0.0:%d" (int .Values.externalScaler.port) }}
- name: FLOTILLA_SCALER_LEADER_ADDRESS
  value: {{ printf "0.0.0.0:%d" (int .Values.externalScaler.leaderPort) }}
{{- end }}
- name: FLOTILLA_LOG_FORMAT
  value: {{ .Values.log.format }}
- name: FLOTILLA_LOG_LEVEL
  value: {{ .Values.log.level }}
{{- end }}
