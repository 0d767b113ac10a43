output "dashboards" {
  description = "Files of dashboards that are applied."
  value       = sort(keys(local.dashboards))
}

output "rules" {
  description = "Files of recording rules and alerts that are applied."
  value       = sort(keys(local.rules))
}
