variable "folder" {
  description = "The repository's `observability` folder; every dashboard and rule file below it is applied, also ones added later."
  type        = string
  nullable    = false
}

variable "namespace" {
  description = "Namespace of Grafana's and Prometheus' own pods, where dashboards and rules go."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", var.namespace))
    error_message = "A namespace of Kubernetes: small letters, digits and hyphens."
  }
}
