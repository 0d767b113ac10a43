output "account" {
  description = "ServiceAccount that reads the store, `namespace/name`: an identity of the cloud is bound to it."
  value       = "${local.namespace}/${local.account}"
}

output "store" {
  description = "Name of the ClusterSecretStore, once it is there."
  value       = "bank"
  depends_on  = [kubectl_manifest.store]
}
