output "objects" {
  description = "`Kind/namespace/name` of everything that is applied, in order of their names."
  value       = sort(concat(keys(local.first), keys(local.rest)))
}

output "documents" {
  description = "The same, to the YAML that is applied."
  value       = local.named
}
