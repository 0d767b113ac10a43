output "job" {
  description = "Name of the Job, in the namespace mlplatform."
  value       = local.name
  depends_on  = [kubectl_manifest.job]
}
