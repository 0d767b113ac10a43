variable "database" {
  description = "Host and port of PostgreSQL, and the entry of the store `bank` with its administrator's `username` and `password`."
  type = object({
    host   = string
    port   = number
    secret = string
  })
  nullable = false
}

variable "image" {
  description = "Image of the flow runner, which has a client for PostgreSQL."
  type        = string
  nullable    = false
}

variable "secrets_prefix" {
  description = "Path of the entries `postgres`, `mlflow` and `prefect` in the store, up to their names."
  type        = string
  nullable    = false
}

variable "authority" {
  description = "File in the image that has the certificate authority of PostgreSQL; null where the image trusts it already."
  type        = string
  default     = null
}

variable "run" {
  description = "Changed to have databases and passwords set again, as after a change of passwords."
  type        = number
  default     = 1
  nullable    = false

  validation {
    condition     = var.run >= 1
    error_message = "Counted from 1."
  }
}
