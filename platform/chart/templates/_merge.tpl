{{/* A strategic merge: `from` into `into`, both maps, in place. */}}
{{- define "mlplatform.merge" -}}
{{- $into := .into -}}
{{- range $key, $value := .from -}}
  {{- $known := get $into $key -}}
  {{- if kindIs "invalid" $value -}}
    {{- $_ := unset $into $key -}}
  {{- else if and (kindIs "map" $value) (kindIs "map" $known) -}}
    {{- include "mlplatform.merge" (dict "into" $known "from" $value) -}}
  {{- else if and (kindIs "slice" $value) (kindIs "slice" $known) -}}
    {{- $_ := set $into $key (include "mlplatform.items" (dict "key" $key "into" $known "from" $value) | fromJsonArray) -}}
  {{- else -}}
    {{- $_ := set $into $key $value -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{/* Two lists of one field as JSON: items of one name are merged, or the second list alone where items have no name. */}}
{{- define "mlplatform.items" -}}
{{- $names := dict "containers" "name" "initContainers" "name" "volumes" "name" "env" "name" "volumeMounts" "mountPath" -}}
{{- $name := get $names .key -}}
{{- if eq .key "ports" -}}
  {{- $name = ternary "containerPort" "port" (hasKey (first (concat .from .into)) "containerPort") -}}
{{- end -}}
{{- if not $name -}}
  {{- toJson .from -}}
{{- else -}}
  {{- $all := .into -}}
  {{- range $item := .from -}}
    {{- $is := dict "new" true -}}
    {{- range $all -}}
      {{- if eq (get . $name | toString) (get $item $name | toString) -}}
        {{- $_ := set $is "new" false -}}
        {{- include "mlplatform.merge" (dict "into" . "from" $item) -}}
      {{- end -}}
    {{- end -}}
    {{- if $is.new -}}
      {{- $all = append $all $item -}}
    {{- end -}}
  {{- end -}}
  {{- toJson $all -}}
{{- end -}}
{{- end -}}

{{/* Whether a document is one that a kustomization's target (kind, name as a pattern, labelSelector) means. */}}
{{- define "mlplatform.is-target" -}}
{{- $document := .document -}}
{{- $is := and (eq .target.kind $document.kind) (regexMatch (printf "^(%s)$" (.target.name | default ".*")) $document.metadata.name) -}}
{{- range compact (splitList "," (.target.labelSelector | default "")) -}}
  {{- $pair := splitList "=" . -}}
  {{- $is = and $is (eq (index $pair 1) (get ($document.metadata.labels | default dict) (index $pair 0) | toString)) -}}
{{- end -}}
{{- ternary "true" "" $is -}}
{{- end -}}

{{/* The YAML documents of a text as a JSON array; `file` is named where they can't be read. */}}
{{- define "mlplatform.documents" -}}
{{- $found := list -}}
{{- range regexSplit "(?m)^---\\s*$" .text -1 -}}
  {{- $document := fromYaml . -}}
  {{- if hasKey $document "Error" -}}
    {{- fail (printf "%s: %s" $.file $document.Error) -}}
  {{- end -}}
  {{- if $document -}}
    {{- $found = append $found $document -}}
  {{- end -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* A text of a manifest with the images that values name. */}}
{{- define "mlplatform.with-images" -}}
{{- $text := .text -}}
{{- range $image, $reference := .images -}}
  {{- $text = regexReplaceAll (printf "%s:[0-9A-Za-z._-]+" $image) $text $reference -}}
{{- end -}}
{{- $text -}}
{{- end -}}
