{{/* Labels of a workload and of its pods: (list $ "worker") */}}
{{- define "otel-celery.labels" -}}
app.kubernetes.io/name: {{ (index . 0).Values.name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* What all pods have before their containers: (list $ seconds) */}}
{{- define "otel-celery.pod" -}}
terminationGracePeriodSeconds: {{ index . 1 }}
automountServiceAccountToken: false
{{- with (index . 0).Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ toYaml (index . 0).Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* What all containers have: (list $ "worker" resources) */}}
{{- define "otel-celery.container" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
image: {{ printf "%s:%s" $root.Values.image.repository $root.Values.image.tag | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
envFrom:
  - configMapRef:
      name: {{ $root.Values.name }}-otel
  {{- with $root.Values.envFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ $root.Values.endpoint | quote }}
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_UID
    valueFrom: {fieldRef: {fieldPath: metadata.uid}}
  - name: NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  - name: OTEL_RESOURCE_ATTRIBUTES
    value: "k8s.pod.name=$(POD_NAME),k8s.pod.uid=$(POD_UID),k8s.namespace.name=$(NAMESPACE),k8s.node.name=$(NODE_NAME),k8s.container.name={{ $component }},deployment.environment.name={{ $root.Values.environment }}"
  {{- if eq $component "worker" }}
  - name: OTEL_CELERY_HEALTH_FILE
    value: /tmp/health
  {{- end }}
  {{- if and $root.Values.inject (eq $component "web") }}
  - name: OTEL_CELERY_INJECT
    value: python
  {{- end }}
resources: {{ toYaml (index . 2) | nindent 2 }}
securityContext: {{ toYaml $root.Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- end }}

{{/* The labels of pods: those of the workload, and the policy's: (list $ "worker") */}}
{{- define "otel-celery.podLabels" -}}
{{ include "otel-celery.labels" . }}
{{- if (index . 0).Values.inject }}
otel-celery.io/inject: "true"
{{- end }}
{{- end }}
