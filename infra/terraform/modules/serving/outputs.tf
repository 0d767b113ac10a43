output "ready" {
  description = "Names of the charts that are installed; what writes InferenceServices depends on it."
  value = concat(
    [helm_release.cert_manager.name, helm_release.envoy_gateway.name, helm_release.kserve.name],
    helm_release.keda[*].name, helm_release.argo_workflows[*].name, helm_release.gpu_operator[*].name,
  )
}

output "public_gateway" {
  description = "`namespace/Gateway` for raw callers, or null."
  value       = var.public_gateway == null ? null : "edge/public"
}
