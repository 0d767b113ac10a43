variable "namespace" {
  description = "Namespace of the state; whoever makes it labels it mlplatform/state=true, so that the platform may speak to it."
  type        = string
  default     = "mlplatform-state"
  nullable    = false
}

variable "versions" {
  description = "Exact versions of the charts of PostgreSQL's operator, Valkey and Kafka's operator, of Kafka itself, and the image of SeaweedFS."
  type = object({
    cloudnative_pg = optional(string, "0.29.0")
    valkey         = optional(string, "0.11.0")
    strimzi        = optional(string, "1.2.0")
    kafka          = optional(string, "4.3.1")
    seaweedfs      = optional(string, "chrislusf/seaweedfs:4.48")
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for v in [var.versions.cloudnative_pg, var.versions.valkey, var.versions.strimzi, var.versions.kafka] : can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", v))])
    error_message = "Exact versions, such as 1.2.3."
  }
}

variable "sizes" {
  description = "Volumes of PostgreSQL, Redis, Kafka and the object store, as Kubernetes writes quantities."
  type = object({
    postgres = optional(string, "10Gi")
    redis    = optional(string, "2Gi")
    kafka    = optional(string, "10Gi")
    objects  = optional(string, "20Gi")
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for s in values(var.sizes) : can(regex("^[1-9][0-9]*(Mi|Gi|Ti)$", s))])
    error_message = "A quantity such as 10Gi."
  }
}

variable "kafka" {
  description = "Whether Kafka is installed: the embedded topics do without it."
  type        = bool
  default     = true
  nullable    = false
}
