# Gateways ask for a key of scope `*:metrics`; it is in the store `bank`, as whoever made it put it there.
resource "kubectl_manifest" "metrics_key" {
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ExternalSecret"
    metadata   = { name = "mlplatform-metrics", namespace = local.namespace, labels = local.labels }
    spec = {
      refreshInterval = "15m"
      secretStoreRef  = { kind = "ClusterSecretStore", name = "bank" }
      target          = { name = "mlplatform-metrics" }
      data            = [{ secretKey = "key", remoteRef = { key = var.metrics_key, property = "key" } }]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.namespace]
}

resource "kubectl_manifest" "scraped" {
  for_each = {
    gateways = yamlencode({
      namespaceSelector = { matchNames = ["mlplatform"] }
      selector          = { matchLabels = { "app.kubernetes.io/name" = "mlplatform-gateway" } }
      podMetricsEndpoints = [{
        port          = "http"
        interval      = "15s"
        authorization = { credentials = { name = "mlplatform-metrics", key = "key" } }
      }]
    })
    predictors = yamlencode({
      namespaceSelector   = { matchNames = ["mlplatform-models"] }
      selector            = { matchExpressions = [{ key = "serving.kserve.io/inferenceservice", operator = "Exists" }] }
      podMetricsEndpoints = [{ port = "http1", interval = "15s" }]
    })
  }
  yaml_body = yamlencode({
    apiVersion = "monitoring.coreos.com/v1"
    kind       = "PodMonitor"
    metadata   = { name = "mlplatform-${each.key}", namespace = local.namespace, labels = local.labels }
    spec       = yamldecode(each.value)
  })
  server_side_apply = true
  depends_on        = [helm_release.prometheus]
}
