variable "versions" {
  description = "Exact versions of the charts; the platform's manifests are held to KServe 0.21 or newer."
  type = object({
    cert_manager   = optional(string, "v1.21.1")
    envoy_gateway  = optional(string, "v1.9.0")
    kserve         = optional(string, "v0.21.0")
    keda           = optional(string, "2.20.2")
    argo_workflows = optional(string, "1.0.18")
    gpu_operator   = optional(string, "v26.7.0")
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for v in values(var.versions) : can(regex("^v?[0-9]+\\.[0-9]+\\.[0-9]+$", v))])
    error_message = "Exact versions, such as v1.2.3."
  }
  validation {
    condition     = try(tonumber(regex("^v0\\.([0-9]+)\\.", var.versions.kserve)[0]) >= 21, can(regex("^v[1-9]", var.versions.kserve)))
    error_message = "KServe 0.21 or newer: before it, fields are taken that do nothing in Standard mode."
  }
}

variable "gpus" {
  description = "Whether nodes have NVIDIA GPUs, whether their image brings driver and toolkit, and how a GPU is shared: whole, by MIG (single, mixed), or by turns (time-slicing, with how many pods a GPU)."
  type = object({
    driver_on_nodes = optional(bool, true)
    mig             = optional(string, "single")
    pods_per_gpu    = optional(number, 1)
  })
  default = null

  validation {
    condition     = var.gpus == null ? true : contains(["none", "single", "mixed"], var.gpus.mig)
    error_message = "MIG is none, single or mixed."
  }
  validation {
    condition     = var.gpus == null ? true : var.gpus.pods_per_gpu >= 1 && var.gpus.pods_per_gpu <= 10
    error_message = "Between 1 and 10 pods a GPU: they share its memory without any border."
  }
}

variable "keda" {
  description = "Whether KEDA is installed: predictors scaled by queue and latency need it (docs/decisions/0030)."
  type        = bool
  default     = true
  nullable    = false
}

variable "argo" {
  description = "Namespaces whose workflows Argo's controller looks after; null: no Argo."
  type        = list(string)
  default     = null
}

variable "public_gateway" {
  description = "Host name and TLS Secret of a Gateway for callers from outside, `https://host`; null: none is made, and callers stay within the cluster."
  type = object({
    host       = string
    tls_secret = string
  })
  default = null
}
