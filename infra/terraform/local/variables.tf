variable "kubeconfig" {
  description = "File that says where the cluster is and who you are there: that of kind, or of any cluster you have."
  type        = string
  default     = "~/.kube/config"
  nullable    = false
}

variable "context" {
  description = "Context of that file; named, so that no other cluster is ever meant by accident."
  type        = string
  nullable    = false

  validation {
    condition     = length(var.context) > 0
    error_message = "A context must be named: `kubectl config get-contexts` lists them."
  }
}

variable "images" {
  description = "Images of gateway, flow runner and predictor, as the cluster finds them (kind: after `kind load docker-image`)."
  type = object({
    gateway       = string
    flows         = string
    predictor     = string
    predictor_gpu = optional(string) # left out: no model computes on a GPU
  })
  default = {
    gateway   = "mlplatform/gateway:0.3.0"
    flows     = "mlplatform/flows:0.3.0"
    predictor = "mlplatform/predictor:0.3.0"
  }
  nullable = false
}

variable "bundles_path" {
  description = "Folder of the node that platform and predictors share; the user 65532 must own it. One node has it, so this is for a cluster of one."
  type        = string
  default     = "/var/lib/mlplatform-bundles"
  nullable    = false

  validation {
    condition     = startswith(var.bundles_path, "/")
    error_message = "A whole path."
  }
}

variable "gpus" {
  description = "Whether the node has NVIDIA GPUs, and how they are shared (see the serving module); null: none."
  type = object({
    driver_on_nodes = optional(bool, true)
    mig             = optional(string, "none")
    pods_per_gpu    = optional(number, 1)
    for_jobs        = optional(number, 0)
  })
  default = null
}

variable "kafka" {
  description = "Whether Kafka is installed; without it topics are on the gateway's volume."
  type        = bool
  default     = false
  nullable    = false
}

variable "observability" {
  description = "Whether Prometheus, Grafana, Loki, Tempo and the collector are installed."
  type        = bool
  default     = true
  nullable    = false
}

variable "wait_for_rollout" {
  description = "Whether an apply ends only when the platform's pods run."
  type        = bool
  default     = true
  nullable    = false
}

variable "metrics" {
  description = "Whether the entry `metrics` is in the store already (README): Prometheus shows it to be let in."
  type        = bool
  default     = false
  nullable    = false
}

variable "links" {
  description = "Where people find the platform's page (`page`), `mlflow` and `prefect` in their browser, for the links of dashboards; what is not named leads to one machine's."
  type        = map(string)
  default     = {}
}

variable "spark" {
  description = "Whether Spark joins the training sets of retrains: its Secret, image and namespace are yours to make first (docs/cluster.md, \"Training sets by Spark\")."
  type        = bool
  default     = false
  nullable    = false
}
