# What Prometheus shows to be let in, and Alertmanager to be heard: entries of the store, as files of their pods.
resource "kubectl_manifest" "metrics_key" {
  for_each = toset(var.metrics_entry[*])
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ExternalSecret"
    metadata   = { name = "mlplatform-metrics", namespace = local.namespace, labels = local.labels }
    spec = {
      refreshInterval = "15m"
      secretStoreRef  = { kind = "ClusterSecretStore", name = "bank" }
      target          = { name = "mlplatform-metrics" }
      dataFrom        = [{ extract = { key = each.value } }]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.namespace]
}

resource "kubectl_manifest" "receivers" {
  for_each = toset([for a in var.alerts[*] : a.entry])
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ExternalSecret"
    metadata   = { name = "alertmanager-receivers", namespace = local.namespace, labels = local.labels }
    spec = {
      refreshInterval = "15m"
      secretStoreRef  = { kind = "ClusterSecretStore", name = "bank" }
      target          = { name = "alertmanager-receivers" }
      dataFrom        = [{ extract = { key = each.value } }]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.namespace]
}
