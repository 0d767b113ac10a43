variable "account_id" {
  description = "Account that this environment is in: an apply with credentials of another one stops."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "Twelve digits."
  }
}

variable "region" {
  description = "Region of everything."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region such as eu-central-1."
  }
}

variable "environment" {
  description = "Name of this environment, in every name: one state and one set of variables each, never a workspace."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,11}$", var.environment))
    error_message = "Between 2 and 12 small letters, digits and hyphens."
  }
}

variable "tags" {
  description = "Further tags of everything, such as a cost centre."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "network" {
  description = "Address range, zones, and whether each zone has a NAT gateway of its own."
  type = object({
    range            = optional(string, "10.40.0.0/16")
    zones            = list(string)
    gateway_per_zone = optional(bool, true)
  })
  nullable = false
}

variable "operators" {
  description = "Role ARNs that administer the cluster; the one that applies this must be among them."
  type        = set(string)
  nullable    = false
}

variable "api_ranges" {
  description = "Address ranges that may reach the cluster's API server from outside the network; none: apply from within it."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "pools" {
  description = "Pools of nodes without GPUs (see the cluster module)."
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
  default = {
    system = { machines = ["m7i.xlarge"], min = 3, size = 3, max = 6 }
  }
  nullable = false
}

variable "gpu_pools" {
  description = "Pools of nodes with GPUs, tainted and bounded (see the cluster module)."
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
  default = {
    l4 = { machines = ["g6.xlarge"], gpus_per_node = 1, max = 2, product = "NVIDIA-L4" }
  }
  nullable = false
}

variable "most_gpus" {
  description = "How many GPUs all pools together may ever hold."
  type        = number
  default     = 2
  nullable    = false
}

variable "gpu_sharing" {
  description = "How GPUs are shared (see the serving module's `gpus`)."
  type = object({
    mig          = optional(string, "single")
    pods_per_gpu = optional(number, 1)
    for_jobs     = optional(number, 1)
  })
  default  = {}
  nullable = false
}

variable "postgres" {
  description = "PostgreSQL's size and backups (see the data-aws module)."
  type = object({
    version     = optional(string, "17.6")
    machine     = optional(string, "db.m7g.large")
    disk_gib    = optional(number, 100)
    disk_most   = optional(number, 500)
    backup_days = optional(number, 35)
    standby     = optional(bool, true)
  })
  default  = {}
  nullable = false
}

variable "redis" {
  description = "Valkey's size (see the data-aws module)."
  type = object({
    version = optional(string, "8.0")
    machine = optional(string, "cache.m7g.large")
    nodes   = optional(number, 2)
  })
  default  = {}
  nullable = false
}

variable "kafka" {
  description = "Kafka's size (see the data-aws module); null: none."
  type = object({
    version          = optional(string, "3.9.x")
    machine          = optional(string, "kafka.m7g.large")
    brokers_per_zone = optional(number, 1)
    disk_gib         = optional(number, 200)
  })
  default = null
}

variable "images" {
  description = "Images of gateway, flow runner and predictor by digest, where the nodes can pull them."
  type = object({
    gateway       = string
    flows         = string
    predictor     = string
    predictor_gpu = optional(string) # left out: no model computes on a GPU
  })
  nullable = false

  validation {
    condition     = alltrue([for i in compact(values(var.images)) : can(regex("@sha256:[0-9a-f]{64}$", i))])
    error_message = "By digest: registry/name@sha256:…"
  }
}

variable "authority" {
  description = "File in those images with the certificate authority of RDS; null where their base image trusts it."
  type        = string
  default     = null
}

variable "public_gateway" {
  description = "Host name and TLS Secret (in namespace edge) for callers from outside; null: callers are in the cluster."
  type = object({
    host       = string
    tls_secret = string
  })
  default = null
}

variable "raw_domain" {
  description = "Domain of callers that pass the gateway by (docs/cluster.md, Raw callers); null: there are none."
  type        = string
  default     = null
}

variable "sign_in" {
  description = "The OpenID Connect provider at which people sign in to the page: see the platform module. Secret `sign-in` is made by hand (docs/cluster.md)."
  type = object({
    issuer       = string
    client_id    = string
    page         = string
    public       = optional(bool, false)
    scope        = optional(string)
    groups_claim = optional(string)
    name_claim   = optional(string)
  })
  default = null
}

variable "passwords" {
  description = "See the data-aws module; given at the first apply and when passwords change, as TF_VAR_passwords. Kept in no state and no plan."
  type = object({
    postgres         = string
    redis            = string
    mlflow_postgres  = string
    mlflow_token     = string
    prefect_postgres = string
    prefect_api      = string
    prefect_reader   = string
    exporter_token   = string
    page_token       = string
    worker_token     = string
    kafka            = optional(string) # where `kafka` is set
  })
  default   = null
  sensitive = true
  ephemeral = true
}

variable "passwords_version" {
  description = "Counted up to have new passwords written."
  type        = number
  default     = 1
  nullable    = false
}

variable "budget" {
  description = "What the environment may cost a month in US dollars, and who gets a message at 80 % of it, and when the forecast passes it; null: nobody."
  type = object({
    dollars = number
    emails  = list(string)
  })
  default = null

  validation {
    condition     = var.budget == null ? true : var.budget.dollars > 0 && length(var.budget.emails) > 0
    error_message = "A sum above zero, and at least one address."
  }
}

variable "protect" {
  description = "Whether cluster, databases and buckets refuse to be deleted. Before a destroy: false, and an apply."
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

variable "pager_url" {
  description = "Where pages go, by https; the entry `alerts` then has `slack-webhook-url` and `pager-token`. Null: alerts are in Grafana alone."
  type        = string
  default     = null
}

variable "heartbeat_url" {
  description = "Where a message goes every one to two minutes as long as alerts are sent, by https, with `pager-token`: the receiver pages somebody when none comes. Null: an end of Prometheus or Alertmanager is noticed by nobody."
  type        = string
  default     = null
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
