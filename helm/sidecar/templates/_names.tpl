{{/* Names and labels of the objects. */}}

{{- define "quota-sidecar.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains "quota-sidecar" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-quota-sidecar" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "quota-sidecar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: quota-sidecar
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The labels that select pods: dict "root" "component". */}}
{{- define "quota-sidecar.selector" -}}
app.kubernetes.io/name: quota-sidecar
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* metadata of an object: dict "root" "component" "name" "clusterScoped". */}}
{{- define "quota-sidecar.metadata" -}}
name: {{ .name }}
{{- if not .clusterScoped }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "quota-sidecar.selector" . | nindent 2 }}
  {{- include "quota-sidecar.labels" .root | nindent 2 }}
{{- end }}

{{- define "quota-sidecar.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{- define "quota-sidecar.plansConfigMap" -}}
{{- if and .Values.plans.configMap .Values.plans.content -}}
{{- fail "plans: configMap and content exclude each other; set one of them" -}}
{{- else if .Values.plans.configMap -}}
{{ .Values.plans.configMap }}
{{- else if .Values.plans.content -}}
{{ include "quota-sidecar.fullname" . }}-plans
{{- else -}}
{{- fail "plans: no plan file; add --set-file plans.content=plans.yaml, or name a ConfigMap with the key plans.yaml in plans.configMap" -}}
{{- end -}}
{{- end }}

{{- define "quota-sidecar.redisSecret" -}}
{{- $given := list -}}
{{- if .Values.redis.existingSecret -}}{{- $given = append $given "redis.existingSecret" -}}{{- end -}}
{{- if .Values.redis.url -}}{{- $given = append $given "redis.url" -}}{{- end -}}
{{- if .Values.valkey.enabled -}}{{- $given = append $given "valkey.enabled" -}}{{- end -}}
{{- if gt (len $given) 1 -}}
{{- fail (printf "redis: %s exclude each other; set one of them" (join " and " $given)) -}}
{{- else if not $given -}}
{{- fail "redis: no Redis; name a Secret with the key url in redis.existingSecret, set redis.url, or set valkey.enabled=true for a trial" -}}
{{- end -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "quota-sidecar.fullname" .)) -}}
{{- end }}

{{/* The URL of the Secret that this chart makes; empty if it makes none. */}}
{{- define "quota-sidecar.redisUrl" -}}
{{- if .Values.valkey.enabled -}}
redis://{{ include "quota-sidecar.fullname" . }}-valkey.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{ .Values.redis.url }}
{{- end -}}
{{- end }}

{{/* The Secret with the token of the control port; empty without one. */}}
{{- define "quota-sidecar.tokenSecret" -}}
{{- with .Values.controlToken -}}
{{- if and .existingSecret .value -}}
{{- fail "controlToken: existingSecret and value exclude each other; set one of them" -}}
{{- end -}}
{{- if .existingSecret -}}
{{ .existingSecret }}
{{- else if .value -}}
{{ include "quota-sidecar.fullname" $ }}-control-token
{{- end -}}
{{- end -}}
{{- end }}
