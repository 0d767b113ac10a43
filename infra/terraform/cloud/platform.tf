# What runs in the cluster. Order: secrets and telemetry bring definitions that the rest writes; then serving, then the platform.
locals {
  jobs = "mlplatform-jobs"
}

# Volumes are encrypted, and outlive their claims: the gateway's has the decision log.
resource "kubectl_manifest" "storage_class" {
  yaml_body = yamlencode({
    apiVersion           = "storage.k8s.io/v1"
    kind                 = "StorageClass"
    metadata             = { name = "mlplatform", annotations = { "storageclass.kubernetes.io/is-default-class" = "true" } }
    provisioner          = "ebs.csi.aws.com"
    parameters           = { type = "gp3", encrypted = "true", kmsKeyId = aws_kms_key.main.arn }
    reclaimPolicy        = "Retain"
    volumeBindingMode    = "WaitForFirstConsumer"
    allowVolumeExpansion = true
  })
  server_side_apply = true
  depends_on        = [module.cluster]
}

module "secrets" {
  source     = "../modules/secrets"
  store      = { region = var.region }
  readers    = ["mlplatform", "telemetry"]
  depends_on = [module.cluster, module.reads_secrets]
}

module "observability" {
  source        = "../modules/observability"
  folder        = "${local.repository}/observability"
  environment   = var.environment
  metrics_entry = var.metrics ? "${local.prefix}metrics" : null
  alerts        = var.pager_url == null ? null : { pager_url = var.pager_url, heartbeat_url = var.heartbeat_url, entry = "${local.prefix}alerts" }
  buckets = {
    logs   = module.state.buckets["logs"].name
    traces = module.state.buckets["traces"].name
    region = var.region
  }
  depends_on = [module.secrets, module.stores_telemetry, kubectl_manifest.storage_class]
}

module "signals" {
  source    = "../modules/signals"
  folder    = "${local.repository}/observability"
  namespace = module.observability.namespace
  addresses = var.links
}

module "serving" {
  source         = "../modules/serving"
  gpus           = length(var.gpu_pools) == 0 ? null : { mig = var.gpu_sharing.mig, pods_per_gpu = var.gpu_sharing.pods_per_gpu }
  argo           = [local.jobs]
  public_gateway = var.public_gateway
  depends_on     = [module.observability] # so that signals are stored from the first minute on
}

module "platform" {
  source     = "../modules/platform"
  repository = local.repository
  images     = var.images
  addresses = merge(module.state.addresses, {
    otlp_endpoint = module.observability.otlp_endpoint
    s3_region     = var.region
  })
  bundles      = module.state.bundles
  state_ranges = module.network.state_ranges
  raw_gateway  = var.raw_domain == null || var.public_gateway == null ? null : { gateway = module.serving.public_gateway, domain = var.raw_domain }
  sign_in      = var.sign_in
  spark        = var.spark
  # The bucket is reached by identity: there are no keys to fetch.
  external_secrets    = { prefix = local.prefix, left_out = concat(["ExternalSecret/mlplatform/s3"], var.kafka == null ? ["ExternalSecret/mlplatform/kafka"] : []) }
  credentials_address = "169.254.170.23:80" # EKS Pod Identity's agent on each node
  jobs = {
    namespace = local.jobs
    bucket    = module.state.buckets["jobs"].name
    endpoint  = "s3.${var.region}.amazonaws.com"
    region    = var.region
    gpus      = min(var.gpu_sharing.for_jobs, module.cluster.gpus.most)
  }
  # Pods start once the databases are there, which the Job below makes after this; so nothing waits here.
  wait_for_rollout = false
  depends_on       = [module.serving, module.stores_versions, module.starts_jobs]
}

module "databases" {
  source         = "../modules/databases"
  database       = module.state.database
  image          = var.images.flows
  secrets_prefix = local.prefix
  authority      = var.authority
  run            = var.passwords_version
  depends_on     = [module.platform]
}
