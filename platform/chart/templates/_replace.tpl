{{/* What an installation says once reaches all that it is about: flow runs have the image of Prefect's worker, and backups the
database and bucket of MLflow. In place. */}}
{{- define "mlplatform.replace" -}}
{{- $known := dict -}}
{{- range .documents -}}
  {{- if eq .kind "Deployment" -}}
    {{- range .spec.template.spec.containers -}}
      {{- if eq .name "prefect-worker" -}}
        {{- $_ := set $known "FLOW_RUN_IMAGE" .image -}}
      {{- else if eq .name "mlflow" -}}
        {{- range .env -}}
          {{- if has .name (list "MLPLATFORM_MLFLOW_POSTGRES" "MLPLATFORM_MLFLOW_ARTIFACTS") -}}
            {{- $_ := set $known .name .value -}}
          {{- end -}}
        {{- end -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- range .documents -}}
  {{- $pods := dict -}}
  {{- if and (eq .kind "CronJob") (eq .metadata.name "backup") -}}
    {{- $pods = .spec.jobTemplate.spec.template.spec -}}
  {{- else if and (eq .kind "Deployment") (eq .metadata.name "prefect-worker") -}}
    {{- $pods = .spec.template.spec -}}
  {{- end -}}
  {{- range concat ($pods.initContainers | default list) ($pods.containers | default list) -}}
    {{- range .env -}}
      {{- if hasKey $known .name -}}
        {{- $_ := set . "value" (get $known .name) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}
