# Heavy jobs: Argo's templates as they are rendered from model.yaml, in a namespace of their own, and who may start them.
locals {
  keys_of_mlflow = one([
    for d in split("\n---\n", file("${local.manifests}/components/external-secrets/secrets.yaml")) : yamldecode(d)
    if yamldecode(d).metadata.name == "s3"
  ])
  job_files = [for f in fileset(local.argo, "*.yaml") : "${local.argo}/${f}"]
}

resource "kubectl_manifest" "jobs_namespace" {
  count = var.jobs == null ? 0 : 1
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Namespace"
    metadata = {
      name   = var.jobs.namespace
      labels = one([for d in split("\n---\n", file("${local.manifests}/base/namespaces.yaml")) : yamldecode(d).metadata.labels if yamldecode(d).metadata.name == "mlplatform"])
    }
  })
  server_side_apply = true
  wait              = true # for its end, at a destroy
}

module "jobs" {
  source           = "../manifests"
  count            = var.jobs == null ? 0 : 1
  folders          = []
  files            = local.job_files
  namespace        = var.jobs.namespace
  replacements     = { (local.flows) = var.images.flows }
  patches          = { "ConfigMap/${var.jobs.namespace}/mlplatform-pools" = { data = { gpu = tostring(var.jobs.gpus) } } }
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [kubectl_manifest.jobs_namespace]
}

resource "kubectl_manifest" "artifacts" {
  count = var.jobs == null ? 0 : 1
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "ConfigMap"
    metadata = {
      name        = "artifact-repositories"
      namespace   = var.jobs.namespace
      annotations = { "workflows.argoproj.io/default-artifact-repository" = "mlplatform" }
    }
    data = {
      mlplatform = yamlencode({
        s3 = merge(
          { bucket = var.jobs.bucket, endpoint = var.jobs.endpoint, region = var.jobs.region, insecure = var.jobs.insecure },
          { for k in ["useSDKCreds"] : k => true if !var.jobs.keys },
          { for k, key in { accessKeySecret = "AWS_ACCESS_KEY_ID", secretKeySecret = "AWS_SECRET_ACCESS_KEY" } :
          k => { name = "s3", key = key } if var.jobs.keys },
        )
      })
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.jobs_namespace]
}

# The keys of the artifacts' store, where it asks for some: the same entry of `bank` as MLflow's.
resource "kubectl_manifest" "artifacts_keys" {
  count = try(var.jobs.keys, false) ? 1 : 0
  yaml_body = yamlencode(merge(local.keys_of_mlflow, {
    metadata = { name = "s3", namespace = var.jobs.namespace }
  }))
  server_side_apply = true
  depends_on        = [kubectl_manifest.jobs_namespace]
}
