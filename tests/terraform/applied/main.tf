# What the kubectl provider alone applies of the platform, on a real API server: definitions, then what is written in their words.
terraform {
  required_version = ">= 1.11"
  required_providers {
    kubectl = {
      source  = "gavinbunney/kubectl"
      version = "~> 1.19"
    }
  }
}

variable "kubeconfig" {
  description = "Of the test cluster."
  type        = string
}

variable "definitions" {
  description = "Resources whose definitions the cluster lacks, `plural.group` to version, kind and scope: any content is taken."
  type        = map(object({ version = string, kind = string, scope = string }))
}

variable "redis" {
  description = "Where Redis is: changed to see a plan find it."
  type        = string
  default     = "rediss://mlplatform@cache.example:6379/0"
}

provider "kubectl" {
  config_path       = var.kubeconfig
  load_config_file  = true
  apply_retry_count = 5
}

resource "kubectl_manifest" "definition" {
  for_each = var.definitions
  yaml_body = yamlencode({
    apiVersion = "apiextensions.k8s.io/v1"
    kind       = "CustomResourceDefinition"
    metadata   = { name = each.key }
    spec = {
      group = join(".", slice(split(".", each.key), 1, length(split(".", each.key))))
      scope = each.value.scope
      names = { plural = split(".", each.key)[0], singular = lower(each.value.kind), kind = each.value.kind }
      versions = [{
        name    = each.value.version
        served  = true
        storage = true
        schema  = { openAPIV3Schema = { type = "object", "x-kubernetes-preserve-unknown-fields" = true } }
      }]
    }
  })
  server_side_apply = true
}

resource "kubectl_manifest" "telemetry" {
  yaml_body         = yamlencode({ apiVersion = "v1", kind = "Namespace", metadata = { name = "telemetry" } })
  server_side_apply = true
  wait              = true
}

module "signals" {
  source     = "../../../infra/terraform/modules/signals"
  folder     = "${path.root}/observability"
  namespace  = "telemetry"
  depends_on = [kubectl_manifest.definition, kubectl_manifest.telemetry]
}

module "platform" {
  source     = "../../../infra/terraform/modules/platform"
  repository = abspath("${path.root}/../../..")
  images = {
    gateway   = "registry.example/gateway:1.2.3"
    flows     = "registry.example/flows:1.2.3"
    predictor = "registry.example/predictor:1.2.3"
  }
  addresses = {
    postgres         = "postgresql://mlplatform@db.example:5432/mlplatform"
    redis            = var.redis
    mlflow_postgres  = "postgresql://mlflow@db.example:5432/mlflow"
    mlflow_artifacts = "s3://artifacts.example/mlflow"
  }
  bundles = {
    platform = { hostPath = { path = "/var/lib/mlplatform-bundles" } }
    models   = { hostPath = { path = "/var/lib/mlplatform-bundles" } }
  }
  external_secrets    = { prefix = "bank/mlplatform/" }
  state_ranges        = ["10.40.208.0/22"]
  credentials_address = "169.254.170.23:80"
  jobs                = { namespace = "mlplatform-jobs", bucket = "jobs.example", endpoint = "s3.example", region = "eu-central-1", gpus = 2, keys = true }
  # An API server without nodes runs no pod.
  wait_for_rollout = false
  depends_on       = [kubectl_manifest.definition]
}

module "databases" {
  source         = "../../../infra/terraform/modules/databases"
  database       = { host = "db.example", port = 5432, secret = "bank/administrator" }
  image          = "registry.example/flows:1.2.3"
  secrets_prefix = "bank/mlplatform/"
  depends_on     = [module.platform]
}

output "objects" {
  description = "What is applied of the repository's manifests."
  value       = module.platform.objects
}

output "signals" {
  description = "Dashboards and rules that are applied."
  value       = { dashboards = module.signals.dashboards, rules = module.signals.rules }
}
