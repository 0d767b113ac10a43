# What Grafana and Prometheus read, from the files that tests of this repository hold to the running platform.
locals {
  read = { for f in fileset(var.folder, "dashboards/**/*.json") : f => jsondecode(file("${var.folder}/${f}")) }

  # A dashboard's constants are addresses that it links to.
  dashboards = { for f, content in local.read : f => jsonencode(merge(content, {
    for templating in [try(content.templating, null)] : "templating" => {
      list = [for v in templating.list : merge(v, { for name, url in var.addresses : "query" => url if v.type == "constant" && v.name == name })]
    } if templating != null
  })) }

  # Rule files as Prometheus reads them, or PrometheusRules; a file of tests has neither groups nor a spec.
  candidates = { for f in fileset(var.folder, "{alerts,rules}/**/*.{yaml,yml}") : f => yamldecode(file("${var.folder}/${f}")) }
  rules = {
    for f, content in local.candidates : f => yamlencode({ groups = try(content.spec.groups, content.groups) })
    if can(content.spec.groups) || can(content.groups)
  }

  # A name that Kubernetes takes: `alerts/fraud_slo.yaml` is `alerts-fraud-slo`.
  names = { for f in concat(keys(local.dashboards), keys(local.rules)) : f => trim(replace(lower(replace(f, "/\\.(json|ya?ml)$/", "")), "/[^a-z0-9]+/", "-"), "-") }
}

resource "kubectl_manifest" "dashboard" {
  for_each = local.dashboards
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "ConfigMap"
    metadata = {
      name      = local.names[each.key]
      namespace = var.namespace
      labels    = { grafana_dashboard = "1", "app.kubernetes.io/part-of" = "mlplatform" }
    }
    data = { (basename(each.key)) = each.value }
  })
  server_side_apply = true
}

resource "kubectl_manifest" "rules" {
  for_each = local.rules
  yaml_body = yamlencode({
    apiVersion = "monitoring.coreos.com/v1"
    kind       = "PrometheusRule"
    metadata = {
      name      = local.names[each.key]
      namespace = var.namespace
      labels    = { "app.kubernetes.io/part-of" = "mlplatform" }
    }
    spec = yamldecode(each.value)
  })
  server_side_apply = true
}
