variable "chart_version" {
  description = "Version of the chart external-secrets."
  type        = string
  default     = "2.9.0"
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", var.chart_version))
    error_message = "One exact version, such as 2.9.0."
  }
}

variable "store" {
  description = "Where the ClusterSecretStore `bank` reads: Secrets of a namespace of this cluster, or AWS Secrets Manager of a region."
  type = object({
    namespace = optional(string)
    region    = optional(string)
  })
  nullable = false

  validation {
    condition     = (var.store.namespace == null) != (var.store.region == null)
    error_message = "Either a namespace or a region."
  }
}

variable "readers" {
  description = "Namespaces whose ExternalSecrets may use the store."
  type        = list(string)
  default     = ["mlplatform", "telemetry"]
  nullable    = false

  validation {
    condition     = length(var.readers) > 0
    error_message = "A store that no namespace may use is of no use; and an empty list would let all in."
  }
}
