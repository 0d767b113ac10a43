output "namespace" {
  description = "Where Prometheus and Grafana are, once their definitions are there: dashboards and rules go there too."
  value       = local.namespace
  depends_on  = [helm_release.prometheus]
}

output "otlp_endpoint" {
  description = "Where the platform's own requests go, by OTLP/HTTP."
  value       = "http://collector.${local.namespace}:4318"
}
