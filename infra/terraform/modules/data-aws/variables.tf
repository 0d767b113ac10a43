variable "name" {
  description = "Prefix of names of everything here."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "Between 3 and 32 small letters, digits and hyphens."
  }
}

variable "vpc_id" {
  description = "The network."
  type        = string
  nullable    = false
}

variable "subnets" {
  description = "Zone to the subnet there that holds state."
  type        = map(string)
  nullable    = false

  validation {
    condition     = length(var.subnets) >= 2
    error_message = "State is held in two zones or more."
  }
}

variable "client_group_id" {
  description = "Security group of the nodes and pods that may speak to the state."
  type        = string
  nullable    = false
}

variable "key_arn" {
  description = "KMS key of everything that is stored here."
  type        = string
  nullable    = false
}

variable "postgres" {
  description = "PostgreSQL: version, machine, first and largest size of its disk in GiB, days of backups, and whether a second zone stands by."
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

  validation {
    condition     = var.postgres.backup_days >= 7 && var.postgres.backup_days <= 35
    error_message = "Between 7 and 35 days of backups."
  }
  validation {
    condition     = var.postgres.disk_gib >= 20 && var.postgres.disk_gib <= var.postgres.disk_most
    error_message = "20 <= disk_gib <= disk_most."
  }
}

variable "redis" {
  description = "Valkey: version, machine and how many nodes hold the same data."
  type = object({
    version = optional(string, "8.0")
    machine = optional(string, "cache.m7g.large")
    nodes   = optional(number, 2)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.redis.nodes >= 2 && var.redis.nodes <= 6
    error_message = "Between 2 and 6 nodes, so that the loss of one is none of the data's."
  }
}

variable "kafka" {
  description = "Kafka: version, machine, brokers a zone and their disks in GiB; null: none, topics are not used."
  type = object({
    version          = optional(string, "3.9.x")
    machine          = optional(string, "kafka.m7g.large")
    brokers_per_zone = optional(number, 1)
    disk_gib         = optional(number, 200)
  })
  default = null

  validation {
    condition     = var.kafka == null ? true : var.kafka.brokers_per_zone >= 1 && var.kafka.brokers_per_zone <= 5
    error_message = "Between 1 and 5 brokers a zone."
  }
}

variable "retention_days" {
  description = "When objects of finished jobs, logs and traces are deleted; versions of the registry are never."
  type = object({
    jobs   = optional(number, 30)
    logs   = optional(number, 90)
    traces = optional(number, 14)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for d in values(var.retention_days) : d >= 1])
    error_message = "One day at least."
  }
}

variable "passwords" {
  description = "Passwords of the databases' users, Redis, Kafka, Prefect's API and its reader, and the tokens of registry, exporter, page and worker; taken once for each `passwords_version`, and kept in no state."
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
    kafka            = optional(string) # where var.kafka is set
  })
  default   = null
  sensitive = true
  ephemeral = true

  validation {
    condition     = var.passwords == null ? true : alltrue([for p in values(var.passwords) : p == null || can(regex("^[A-Za-z0-9_-]{24,128}$", p))])
    error_message = "Between 24 and 128 letters, digits, hyphens and underscores: they stand in URLs."
  }
  validation {
    condition     = var.passwords == null || var.kafka == null ? true : var.passwords.kafka != null
    error_message = "Kafka's user has a password too: `kafka`."
  }
}

variable "passwords_version" {
  description = "Counted up when passwords change: only then are they written."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.passwords_version >= 1
    error_message = "Counted from 1."
  }
}

variable "secrets_prefix" {
  description = "Path of the entries in Secrets Manager, up to their names."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9/-]*/$", var.secrets_prefix))
    error_message = "A path that ends with a slash, such as mlplatform/prod/."
  }
}

variable "authority" {
  description = "File in the platform's images that has the certificate authority of RDS; null where the images trust it already."
  type        = string
  default     = null
}

variable "protect" {
  description = "Whether databases refuse to be deleted, and buckets to be deleted with objects in them, until this is false."
  type        = bool
  default     = true
  nullable    = false
}
