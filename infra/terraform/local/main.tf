# The platform on a cluster that is there already, with its state on the same cluster. Order: what brings definitions, the
# state, the platform; destroyed the other way round.
locals {
  repository = abspath("${path.root}/../../..")
  jobs       = "mlplatform-jobs"
}

module "secrets" {
  source     = "../modules/secrets"
  store      = { namespace = "mlplatform-state" }
  readers    = ["mlplatform", "mlplatform-state", "telemetry", local.jobs]
  depends_on = [kubectl_manifest.state_namespace]
}

# The store's rights are in this namespace, and the state comes after the store.
resource "kubectl_manifest" "state_namespace" {
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Namespace"
    metadata = {
      name   = "mlplatform-state"
      labels = { "mlplatform/state" = "true", "pod-security.kubernetes.io/enforce" = "baseline" }
    }
  })
  server_side_apply = true
  wait              = true # for its end, at a destroy
}

module "state" {
  source     = "../modules/data-local"
  kafka      = var.kafka
  depends_on = [module.secrets]
}

module "observability" {
  source        = "../modules/observability"
  count         = var.observability ? 1 : 0
  folder        = "${local.repository}/observability"
  environment   = "local"
  metrics_entry = var.metrics ? "metrics" : null
  sizes         = { prometheus = "10Gi", grafana = "1Gi", loki = "5Gi", tempo = "5Gi" }
  depends_on    = [module.secrets]
}

module "signals" {
  source    = "../modules/signals"
  count     = var.observability ? 1 : 0
  folder    = "${local.repository}/observability"
  namespace = module.observability[0].namespace
  addresses = var.links
}

module "serving" {
  source = "../modules/serving"
  gpus   = var.gpus
  argo   = [local.jobs]
  # So that signals are stored from the first minute on.
  depends_on = [module.observability]
}

module "platform" {
  source     = "../modules/platform"
  repository = local.repository
  images     = var.images
  addresses = merge(module.state.addresses, {
    kafka         = module.state.kafka
    otlp_endpoint = one(module.observability[*].otlp_endpoint)
  })
  bundles = {
    for mount in ["platform", "models"] : mount => { hostPath = { path = var.bundles_path, type = "DirectoryOrCreate" } }
  }
  external_secrets = { prefix = "", left_out = ["ExternalSecret/mlplatform/kafka"] } # its brokers ask for nobody
  jobs = {
    namespace = local.jobs
    bucket    = "mlplatform-jobs"
    endpoint  = trimprefix(module.state.addresses.s3_endpoint, "http://")
    region    = module.state.addresses.s3_region
    gpus      = try(var.gpus.for_jobs, 0)
    insecure  = true
    keys      = true
  }
  spark            = var.spark
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [module.serving]
}
