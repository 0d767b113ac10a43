variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
  nullable    = false
}

variable "account" {
  description = "ServiceAccount that gets the rights, `namespace/name`."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9-]+/[a-z0-9-]+$", var.account))
    error_message = "namespace/name"
  }
}

variable "rights" {
  description = "What it may do: actions and the resources that they are for, each named."
  type = list(object({
    actions   = list(string)
    resources = list(string)
  }))
  nullable = false

  validation {
    condition     = alltrue(flatten([for r in var.rights : [for a in r.actions : !strcontains(a, "*")]]))
    error_message = "Actions are named one by one."
  }
  validation {
    condition     = alltrue(flatten([for r in var.rights : [for x in r.resources : x != "*"]]))
    error_message = "No right is for everything."
  }
}
