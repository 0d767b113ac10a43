variable "folder" {
  description = "The repository's `observability` folder; every dashboard and rule file below it is applied, also ones added later."
  type        = string
  nullable    = false
}

variable "addresses" {
  description = "Where people find the platform's page, MLflow and Prefect in their browser: the constants `page`, `mlflow` and `prefect` of dashboards, whose files have those of one machine."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name, url in var.addresses : contains(["page", "mlflow", "prefect"], name) && can(regex("^https?://[^/\\s]+(/[^\\s]*[^/\\s])?$", url))])
    error_message = "Addresses of page, mlflow or prefect, such as https://mlflow.bank.example, without a slash at their end."
  }
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
