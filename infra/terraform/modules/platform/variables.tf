variable "repository" {
  description = "Folder of a checkout of this repository: its manifests, runtimes and job templates are what is applied."
  type        = string
  nullable    = false

  validation {
    condition     = fileexists("${var.repository}/platform/manifests/base/kustomization.yaml")
    error_message = "There is no platform/manifests/base below that folder."
  }
}

variable "images" {
  description = "Where the images of gateway, flow runner and predictor are: `registry/name@sha256:…`, or a tag that never moves."
  type = object({
    gateway       = string
    flows         = string
    predictor     = string
    predictor_gpu = optional(string) # left out: no model computes on a GPU
  })
  nullable = false

  validation {
    condition     = alltrue([for i in compact(values(var.images)) : can(regex("(@sha256:[0-9a-f]{64}|:[0-9A-Za-z][0-9A-Za-z._-]*)$", i)) && !endswith(i, ":latest")])
    error_message = "Each image needs a digest, or a tag other than latest."
  }
}

variable "addresses" {
  description = "Where the platform's servers are, without any password: URLs as docs/settings.md says them."
  type = object({
    postgres         = string
    redis            = string
    mlflow_postgres  = string
    mlflow_artifacts = string
    kafka            = optional(string, "") # empty: topics on the gateway's volume
    otlp_endpoint    = optional(string)
    s3_endpoint      = optional(string)
    s3_region        = optional(string)
  })
  nullable = false

  validation {
    condition     = alltrue([for u in [var.addresses.postgres, var.addresses.mlflow_postgres] : can(regex("^postgresql://[^:@/]+@[^@/]+/[^/?]+([?].*)?$", u))])
    error_message = "A database is postgresql://user@host:port/database, and its password stands in a Secret."
  }
  validation {
    condition     = can(regex("^rediss?://[^:@/]+@", var.addresses.redis))
    error_message = "Redis is rediss://user@host:port/number, or redis:// where the network encrypts."
  }
  validation {
    condition     = startswith(var.addresses.mlflow_artifacts, "s3://")
    error_message = "MLflow's artifacts are at s3://bucket/prefix."
  }
}

variable "bundles" {
  description = "One folder that many nodes mount: what a PersistentVolume says of its source, as the platform and as the predictors mount it."
  type = object({
    platform = any
    models   = any
  })
  nullable = false
}

variable "raw_gateway" {
  description = "`namespace/Gateway` that raw callers come through, and their domain; null where there are none."
  type = object({
    gateway = string
    domain  = string
  })
  default = null
}

variable "external_secrets" {
  description = "Path that the Secrets have in the store `bank`, up to their names; null where Secrets are made otherwise."
  type = object({
    prefix   = string
    left_out = optional(set(string), [])
  })
  default = null
}

variable "mesh" {
  description = "Whether Istio in ambient mode is there, so that the mesh's policies are applied too."
  type        = bool
  default     = false
  nullable    = false
}

variable "state_ranges" {
  description = "Address ranges outside the cluster where PostgreSQL, Redis, Kafka and S3 answer; none where they run in it."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for r in var.state_ranges : can(cidrhost(r, 0)) && r != "0.0.0.0/0"])
    error_message = "Each must be a range such as 10.0.1.0/24, and not everything."
  }
}

variable "credentials_address" {
  description = "Where pods get credentials of the cloud, `address:port`; null where they need none."
  type        = string
  default     = null
}

variable "jobs" {
  description = "Argo's namespace for heavy jobs, the bucket and where it is, and how many GPUs jobs hold at a time; null: nobody takes jobs, and `batch` ends at its deadline."
  type = object({
    namespace = string
    bucket    = string
    endpoint  = string
    region    = string
    gpus      = number
    insecure  = optional(bool, false)
    keys      = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.jobs == null ? true : var.jobs.gpus >= 0 && var.jobs.gpus <= 64
    error_message = "Between 0 and 64 GPUs."
  }
}

variable "sign_in" {
  description = "The OpenID Connect provider at which people sign in to the page, and the page's client there; null: with keys alone. Secret `sign-in` has roles.yaml and, unless the client is public, client-secret."
  type = object({
    issuer       = string
    client_id    = string
    page         = string # where people open the page, which then answers to that name alone
    public       = optional(bool, false)
    scope        = optional(string)
    groups_claim = optional(string)
    name_claim   = optional(string)
  })
  default = null

  validation {
    condition     = var.sign_in == null ? true : startswith(var.sign_in.issuer, "https://") && can(regex("^https://[a-z0-9.-]+(:[0-9]{1,5})?$", var.sign_in.page))
    error_message = "Issuer and page are https URLs; the page's is in small letters and without a path or a slash at its end."
  }
}

variable "spark" {
  description = "Whether Spark joins the training sets of retrains. It needs Secret `spark` with spark-defaults.conf, an image of flow runs with PySpark, and a Spark whose namespaces have the label mlplatform/spark (docs/cluster.md)."
  type        = bool
  default     = false
  nullable    = false
}

variable "wait_for_rollout" {
  description = "Whether an apply ends only when the platform's pods run what was applied."
  type        = bool
  default     = true
  nullable    = false
}
