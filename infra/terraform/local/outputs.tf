output "gateway" {
  description = "How to reach the scoring API from this machine."
  value       = "kubectl --context ${var.context} -n mlplatform port-forward service/gateway 8080:80"
}

output "grafana" {
  description = "How to reach Grafana from this machine; null where there is none. The password is in Secret telemetry/grafana-admin."
  value       = var.observability ? "kubectl --context ${var.context} -n telemetry port-forward service/prometheus-grafana 3000:80" : null
}

output "objects" {
  description = "What was applied of this repository's manifests."
  value       = module.platform.objects
}

output "kafka" {
  description = "Brokers of Kafka, or null."
  value       = module.state.kafka
}
