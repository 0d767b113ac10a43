variable "name" {
  description = "Prefix of names and tags of everything in this network."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "Between 3 and 32 small letters, digits and hyphens."
  }
}

variable "range" {
  description = "Address range of the network, at least a /18: pods have addresses of it."
  type        = string
  default     = "10.40.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrhost(var.range, 0)) && try(tonumber(split("/", var.range)[1]), 33) <= 18
    error_message = "A range such as 10.40.0.0/16, not smaller than /18."
  }
}

variable "zones" {
  description = "Availability zones, two or three of one region: databases and brokers are spread over them."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.zones) >= 2 && length(var.zones) <= 3 && length(distinct(var.zones)) == length(var.zones)
    error_message = "Two or three different zones."
  }
}

variable "gateway_per_zone" {
  description = "Whether each zone has a NAT gateway of its own: costs more, and outlives the loss of a zone."
  type        = bool
  default     = true
  nullable    = false
}

variable "flow_log_days" {
  description = "How long records of connections are kept."
  type        = number
  default     = 365
  nullable    = false

  validation {
    condition     = contains([30, 90, 180, 365, 400, 731], var.flow_log_days)
    error_message = "30, 90, 180, 365, 400 or 731 days, as CloudWatch takes them."
  }
}

variable "key_arn" {
  description = "KMS key that the records of connections are encrypted with."
  type        = string
  nullable    = false
}
