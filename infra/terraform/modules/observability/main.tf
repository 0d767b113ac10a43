# Metrics, logs and traces of the platform, and Grafana over them. Everything that speaks about the platform itself
# (dashboards, rules) is the signals module's.
locals {
  namespace = "telemetry"
  labels    = { "app.kubernetes.io/part-of" = "mlplatform" }

  prometheus = "http://prometheus-operated.${local.namespace}:9090"
  loki       = "http://loki.${local.namespace}:3100"
  tempo      = "http://tempo.${local.namespace}:3200"
}

resource "kubectl_manifest" "namespace" {
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Namespace"
    metadata = {
      name = local.namespace
      labels = merge(local.labels, {
        "mlplatform/scrapes"                 = "true"
        "mlplatform/telemetry"               = "true"
        "pod-security.kubernetes.io/enforce" = "privileged" # the node exporter mounts the node's /proc and /sys
      })
    }
  })
  server_side_apply = true
  wait              = true # for its end, at a destroy
}

resource "helm_release" "prometheus" {
  name       = "prometheus"
  repository = "https://prometheus-community.github.io/helm-charts"
  chart      = "kube-prometheus-stack"
  version    = var.versions.kube_prometheus_stack
  namespace  = local.namespace
  atomic     = true
  timeout    = 900
  values     = [yamlencode(local.prometheus_values)]
  depends_on = [kubectl_manifest.grafana_admin, kubectl_manifest.metrics_key, kubectl_manifest.receivers]
}

resource "helm_release" "loki" {
  name       = "loki"
  repository = "oci://ghcr.io/grafana-community/helm-charts"
  chart      = "loki"
  version    = var.versions.loki
  namespace  = local.namespace
  atomic     = true
  values     = [yamlencode(local.loki_values)]
  depends_on = [kubectl_manifest.namespace]
}

resource "helm_release" "tempo" {
  name       = "tempo"
  repository = "oci://ghcr.io/grafana-community/helm-charts"
  chart      = "tempo"
  version    = var.versions.tempo
  namespace  = local.namespace
  atomic     = true
  values     = [yamlencode(local.tempo_values)]
  depends_on = [kubectl_manifest.namespace]
}

resource "helm_release" "collector" {
  name       = "collector"
  repository = "https://open-telemetry.github.io/opentelemetry-helm-charts"
  chart      = "opentelemetry-collector"
  version    = var.versions.collector
  namespace  = local.namespace
  atomic     = true
  values     = [yamlencode(local.collector_values)]
  depends_on = [helm_release.prometheus, helm_release.loki, helm_release.tempo]
}

# On each node: what the platform's pods write, read as the collector's file says, and sent to the collector.
resource "helm_release" "logs" {
  name       = "logs"
  repository = "https://open-telemetry.github.io/opentelemetry-helm-charts"
  chart      = "opentelemetry-collector"
  version    = var.versions.collector
  namespace  = local.namespace
  atomic     = true
  values     = [yamlencode(local.logs_values)]
  depends_on = [helm_release.collector]
}

# Grafana's first password is made in the cluster, once.
resource "kubectl_manifest" "grafana_admin" {
  for_each = {
    Password = yamlencode({
      apiVersion = "generators.external-secrets.io/v1alpha1"
      spec       = { length = 40, digits = 10, symbols = 0, noUpper = false, allowRepeat = true }
    })
    ExternalSecret = yamlencode({
      apiVersion = "external-secrets.io/v1"
      spec = {
        refreshPolicy = "CreatedOnce"
        target = {
          name     = "grafana-admin"
          template = { engineVersion = "v2", data = { "admin-user" = "admin", "admin-password" = "{{ .password }}" } }
        }
        dataFrom = [{ sourceRef = { generatorRef = { apiVersion = "generators.external-secrets.io/v1alpha1", kind = "Password", name = "grafana-admin" } } }]
      }
    })
  }
  yaml_body = yamlencode(merge(yamldecode(each.value), {
    kind     = each.key
    metadata = { name = "grafana-admin", namespace = local.namespace, labels = local.labels }
  }))
  server_side_apply = true
  depends_on        = [kubectl_manifest.namespace]
}
