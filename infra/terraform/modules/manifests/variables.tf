variable "folders" {
  description = "Kustomization folders whose `resources` and `configMapGenerator` are applied, without any copy of them."
  type        = list(string)
  nullable    = false

  validation {
    condition     = alltrue([for f in var.folders : fileexists("${f}/kustomization.yaml")])
    error_message = "Each folder needs a kustomization.yaml."
  }
}

variable "files" {
  description = "Further YAML files, of one or more documents each."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for f in var.files : fileexists(f)])
    error_message = "Each file must be there."
  }
}

variable "replacements" {
  description = "What is written instead of a text of the manifests, such as an image's name. Each text must stand in one."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for old in keys(var.replacements) : old != "" && !(startswith(old, "/") && endswith(old, "/"))])
    error_message = "A text is not empty, and not between two slashes: that would be a pattern."
  }
  validation {
    condition     = length(var.replacements) <= 6
    error_message = "Six texts at most are replaced, one after the other."
  }
  validation {
    condition     = alltrue([for a in keys(var.replacements) : alltrue([for b in keys(var.replacements) : a == b || !strcontains(b, a)])])
    error_message = "No text may be a part of another: what came of it would depend on their order."
  }
}

variable "patches" {
  description = "`Kind/namespace/name` (no namespace: `Kind//name`) to what is merged into that object's top-level fields, one level deep."
  type        = any
  default     = {}
  nullable    = false
}

variable "left_out" {
  description = "`Kind/namespace/name` of objects that this installation does not have."
  type        = set(string)
  default     = []
  nullable    = false
}

variable "namespace" {
  description = "Namespace of documents that name none and are not of the whole cluster; null leaves them as they are."
  type        = string
  default     = null
}

variable "wait_for_rollout" {
  description = "Whether an apply ends only when Deployments and StatefulSets run what was applied."
  type        = bool
  default     = true
  nullable    = false
}
