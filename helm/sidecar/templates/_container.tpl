{{/*
The container of the sidecar.

For the pods of an application, whose chart has this one as a dependency:

    {{- $sidecar := index .Subcharts "quota-sidecar" }}
    spec:
      terminationGracePeriodSeconds: {{ include "quota-sidecar.gracePeriodSeconds" $sidecar }}
      initContainers:
        {{- include "quota-sidecar.container" $sidecar | nindent 8 }}
      containers:
        - name: shop
          lifecycle:
            {{- include "quota-sidecar.apiLifecycle" $sidecar | nindent 12 }}
      volumes:
        {{- include "quota-sidecar.volumes" $sidecar | nindent 8 }}
*/}}

{{/* A native sidecar: a list with one init container. */}}
{{- define "quota-sidecar.container" -}}
{{- $container := .Values.container -}}
{{- $workload := $container.workload | default .Release.Name -}}
{{- $upstream := printf "http://127.0.0.1:%d" (required "container.apiPort: no port; set the port on which the API listens in its pod" $container.apiPort | int) -}}
- {{ include "quota-sidecar.containerSpec" (dict "root" . "native" true "upstream" $upstream "port" $container.port "source" (include "quota-sidecar.source" (dict "root" . "workload" $workload)) "resources" $container.resources) | nindent 2 | trim }}
{{- end }}

{{/* The CloudEvents source: dict "root" "workload". */}}
{{- define "quota-sidecar.source" -}}
{{- .root.Values.settings.source | default (printf "/sidecar/%s/%s" .root.Release.Namespace .workload) -}}
{{- end }}

{{/* dict "root" "native" "upstream" "port" "source" "resources" */}}
{{- define "quota-sidecar.containerSpec" -}}
{{- $root := .root -}}
name: quota-sidecar
image: {{ include "quota-sidecar.image" $root | quote }}
{{- with $root.Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- if .native }}
restartPolicy: Always
{{- end }}
ports:
  - name: http
    containerPort: {{ int .port }}
    protocol: TCP
  - name: control
    containerPort: 9090
    protocol: TCP
env:
  - name: SIDECAR_UPSTREAM
    value: {{ .upstream | quote }}
  - name: SIDECAR_PLANS
    value: /etc/quota-sidecar/plans.yaml
  - name: SIDECAR_LISTEN
    value: "0.0.0.0:{{ int .port }}"
  - name: SIDECAR_CONTROL
    value: "0.0.0.0:9090"
  - name: SIDECAR_SOURCE
    value: {{ .source | quote }}
  - name: SIDECAR_REDIS
    valueFrom:
      secretKeyRef:
        name: {{ include "quota-sidecar.redisSecret" $root }}
        key: {{ $root.Values.redis.key }}
  {{- if include "quota-sidecar.tokenSecret" $root }}
  - name: SIDECAR_CONTROL_TOKEN_FILE
    value: /etc/quota-sidecar-token/token
  {{- end }}
  {{- range $name, $value := omit $root.Values.settings "source" }}
  {{- if not (kindIs "invalid" $value) }}
  - name: SIDECAR_{{ upper $name }}
    value: {{ include "quota-sidecar.text" $value | quote }}
  {{- end }}
  {{- end }}
  {{- with $root.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
startupProbe:
  httpGet: {path: /readyz, port: control}
  {{- toYaml $root.Values.probes.startup | nindent 2 }}
readinessProbe:
  httpGet: {path: /readyz, port: control}
  {{- toYaml $root.Values.probes.readiness | nindent 2 }}
livenessProbe:
  httpGet: {path: /healthz, port: control}
  {{- toYaml $root.Values.probes.liveness | nindent 2 }}
{{- if .native }}
lifecycle:
  preStop:
    exec:
      command: [python, -P, -m, sidecar.commands.drain]
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- include "quota-sidecar.securityContext" $root | nindent 2 }}
  runAsUser: 65532
  runAsGroup: 65532
volumeMounts:
  - name: quota-sidecar-plans
    mountPath: /etc/quota-sidecar
    readOnly: true
  - name: quota-sidecar-spool
    mountPath: /var/spool/sidecar
  {{- if include "quota-sidecar.tokenSecret" $root }}
  - name: quota-sidecar-token
    mountPath: /etc/quota-sidecar-token
    readOnly: true
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What the "restricted" pod security standard asks of a container. */}}
{{- define "quota-sidecar.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* The volumes of the pods of an application. The spool ends with its pod. */}}
{{- define "quota-sidecar.volumes" -}}
{{ include "quota-sidecar.fileVolumes" . }}
- name: quota-sidecar-spool
  {{- with .Values.container.spool.claimTemplate }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        {{- toYaml . | nindent 8 }}
  {{- else }}
  emptyDir: {{- with .Values.container.spool.sizeLimit }} {sizeLimit: {{ . }}} {{- else }} {} {{- end }}
  {{- end }}
{{- end }}

{{- define "quota-sidecar.fileVolumes" -}}
- name: quota-sidecar-plans
  configMap:
    name: {{ include "quota-sidecar.plansConfigMap" . }}
{{- with include "quota-sidecar.tokenSecret" . }}
- name: quota-sidecar-token
  secret:
    secretName: {{ . }}
    items: [{key: {{ $.Values.controlToken.key }}, path: token}]
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The lifecycle of the API's container. Kubernetes runs all preStop hooks at once: while the API waits
here, the sidecar sends clients elsewhere. The API gets SIGTERM after that, the sidecar after the API.
*/}}
{{- define "quota-sidecar.apiLifecycle" -}}
preStop:
  sleep:
    seconds: {{ add (include "quota-sidecar.drainDelay" . | int) 1 }}
{{- end }}

{{- define "quota-sidecar.drainDelay" -}}
{{ dig "drain_delay_s" 5 .Values.settings | ceil | int }}
{{- end }}

{{/* Drain delay, drain timeout, and 10 s to write and ship the last events. */}}
{{- define "quota-sidecar.gracePeriodSeconds" -}}
{{ add (include "quota-sidecar.drainDelay" . | int) (dig "drain_timeout_s" 30 .Values.settings | ceil | int) 10 }}
{{- end }}

{{/* A setting as the text of an environment variable: lists have commas, whole numbers no exponent. */}}
{{- define "quota-sidecar.text" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if and (kindIs "float64" .) (eq . (floor .)) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end }}
