variable "name" {
  description = "Name of the cluster."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "Between 3 and 32 small letters, digits and hyphens."
  }
}

variable "kubernetes" {
  description = "Version of Kubernetes, one that the test cluster of this repository has run; upgraded one minor version at a time."
  type        = string
  default     = "1.34"
  nullable    = false

  validation {
    condition     = try(tonumber(regex("^1\\.([0-9]{2})$", var.kubernetes)[0]) >= 32, false)
    error_message = "1.32 or newer, as KServe asks for."
  }
}

variable "subnets" {
  description = "Zone to the private subnet there that nodes run in."
  type        = map(string)
  nullable    = false
}

variable "key_arn" {
  description = "KMS key of Secrets in etcd, of the control plane's log and of the nodes' disks."
  type        = string
  nullable    = false
}

variable "operators" {
  description = "Role ARNs of the people and pipelines that administer the cluster; nobody else gets in, the account that made it neither."
  type        = set(string)
  nullable    = false

  validation {
    condition     = length(var.operators) > 0 && alltrue([for o in var.operators : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/.+", o))])
    error_message = "At least one ARN of a role: with none, nobody could reach the cluster."
  }
}

variable "api_ranges" {
  description = "Address ranges that may reach the API server from outside; none leaves it to the private network."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for r in var.api_ranges : can(cidrhost(r, 0)) && r != "0.0.0.0/0"])
    error_message = "Ranges such as 203.0.113.0/24, and not everything."
  }
}

variable "pools" {
  description = "Pools of nodes without GPUs: types of machines, bounds, and what they carry. Flow runs and the gateway need one zone's volume, so a pool may be held to zones."
  type = map(object({
    machines = list(string)
    min      = number
    size     = number
    max      = number
    spot     = optional(bool, false)
    disk_gib = optional(number, 100)
    zones    = optional(list(string))
    labels   = optional(map(string), {})
  }))
  nullable = false

  validation {
    condition     = alltrue([for p in values(var.pools) : 0 <= p.min && p.min <= p.size && p.size <= p.max && p.max >= 1 && p.max <= 100])
    error_message = "0 <= min <= size <= max <= 100."
  }
  validation {
    condition     = anytrue([for p in values(var.pools) : p.min >= 1 && !p.spot])
    error_message = "One pool of at least one node that stays: controllers run there."
  }
}

variable "gpu_pools" {
  description = "Pools of nodes with GPUs. `max` bounds what they can cost; `product` is the label by which models ask for a GPU (model.yaml: gpu.product)."
  type = map(object({
    machines      = list(string)
    gpus_per_node = number
    min           = optional(number, 0)
    size          = optional(number, 0)
    max           = number
    product       = string
    spot          = optional(bool, false)
    disk_gib      = optional(number, 200)
    zones         = optional(list(string))
    mig_profile   = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for p in values(var.gpu_pools) : 0 <= p.min && p.min <= p.size && p.size <= p.max && p.max >= 1])
    error_message = "0 <= min <= size <= max, and max is at least 1."
  }
  validation {
    condition     = alltrue([for p in values(var.gpu_pools) : p.gpus_per_node >= 1 && p.gpus_per_node <= 16])
    error_message = "A node has between 1 and 16 GPUs."
  }
  validation {
    condition     = sum(concat([0], [for p in values(var.gpu_pools) : p.max * p.gpus_per_node])) <= var.most_gpus
    error_message = "The pools together could hold more GPUs than most_gpus allows."
  }
}

variable "most_gpus" {
  description = "How many GPUs all pools together may ever hold: a guard against a bill, raised on purpose."
  type        = number
  default     = 8
  nullable    = false

  validation {
    condition     = var.most_gpus >= 0 && var.most_gpus <= 1024
    error_message = "Between 0 and 1024."
  }
}

variable "addon_versions" {
  description = "Versions of EKS's add-ons (vpc-cni, coredns, kube-proxy, eks-pod-identity-agent, aws-ebs-csi-driver, aws-efs-csi-driver, metrics-server); one left out is what AWS gives for this Kubernetes."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for v in values(var.addon_versions) : can(regex("^v[0-9]+\\.[0-9]+\\.[0-9]+-eksbuild\\.[0-9]+$", v))])
    error_message = "Exact versions, such as v1.20.4-eksbuild.2."
  }
}

variable "log_days" {
  description = "How long the control plane's log is kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 90, 180, 365, 400, 731], var.log_days)
    error_message = "30, 90, 180, 365, 400 or 731 days, as CloudWatch takes them."
  }
}

variable "protect" {
  description = "Whether the cluster refuses to be deleted until this is false."
  type        = bool
  default     = true
  nullable    = false
}
