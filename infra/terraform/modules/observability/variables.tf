variable "versions" {
  description = "Exact versions of the charts of Prometheus' stack (with Grafana), Loki, Tempo and the OpenTelemetry collector."
  type = object({
    kube_prometheus_stack = optional(string, "88.5.3")
    loki                  = optional(string, "18.11.0")
    tempo                 = optional(string, "2.2.4")
    collector             = optional(string, "0.170.0")
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for v in values(var.versions) : can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", v))])
    error_message = "Exact versions, such as 1.2.3."
  }
}

variable "retention_days" {
  description = "How long metrics, traces and logs are kept."
  type = object({
    metrics = optional(number, 30)
    traces  = optional(number, 7)
    logs    = optional(number, 30)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for d in values(var.retention_days) : d >= 1 && d <= 400])
    error_message = "Between one day and 400."
  }
}

variable "sizes" {
  description = "Volumes of Prometheus, Grafana, Loki and Tempo, as Kubernetes writes quantities."
  type = object({
    prometheus = optional(string, "50Gi")
    grafana    = optional(string, "5Gi")
    loki       = optional(string, "20Gi")
    tempo      = optional(string, "20Gi")
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for s in values(var.sizes) : can(regex("^[1-9][0-9]*(Mi|Gi|Ti)$", s))])
    error_message = "A quantity such as 50Gi."
  }
}

variable "buckets" {
  description = "Buckets of logs and traces and the region they are in; null keeps both on volumes."
  type = object({
    logs   = string
    traces = string
    region = string
  })
  default = null
}

variable "metrics_key" {
  description = "Entry of the store `bank` whose property `key` is an API key of the gateway with scope `*:metrics`."
  type        = string
  default     = "mlplatform/metrics"
  nullable    = false
}
