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

variable "folder" {
  description = "The repository's `observability` folder: configurations of collector, Prometheus, Alertmanager, Loki and Tempo are read there."
  type        = string
  nullable    = false

  validation {
    condition     = alltrue([for f in ["collector/collector", "loki/loki", "tempo/tempo", "prometheus/cluster", "alertmanager/alertmanager", "grafana/datasources"] : fileexists("${var.folder}/${f}.yaml")])
    error_message = "A configuration is missing below that folder."
  }
}

variable "environment" {
  description = "Name of the environment, on every trace and log line."
  type        = string
  nullable    = false
}

variable "retention_days" {
  description = "How long metrics are kept; for logs and traces it is said in their stores' own files."
  type        = number
  default     = 90
  nullable    = false

  validation {
    condition     = var.retention_days >= 1 && var.retention_days <= 400
    error_message = "Between one day and 400."
  }
}

variable "alerts" {
  description = "Where pages go, where the heartbeat goes by which an end of all alerts is noticed (null: nowhere), and the entry of the store `bank` with the properties `slack-webhook-url` and `pager-token`; null: alerts are in Grafana alone."
  type = object({
    pager_url     = string
    heartbeat_url = optional(string)
    entry         = string
  })
  default = null

  validation {
    condition     = var.alerts == null ? true : alltrue([for url in compact([var.alerts.pager_url, var.alerts.heartbeat_url]) : startswith(url, "https://")])
    error_message = "Pages and heartbeats go by https."
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

variable "metrics_entry" {
  description = "Entry of the store `bank` with the properties `api.key`, an API key of scope `*:metrics`, `exporter.token` and `worker.token`; null: what asks for them is not scraped yet."
  type        = string
  default     = null
}
