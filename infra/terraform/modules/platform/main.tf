# The platform's own processes, from this repository's manifests. What an installation changes is given as addresses, images
# and volumes; sizes, probes, rights and limits stay what the manifests say.
locals {
  manifests = "${var.repository}/platform/manifests"
  kserve    = "${var.repository}/kserve"
  argo      = "${var.repository}/argo"

  settings = merge(
    {
      MLPLATFORM_POSTGRES = var.addresses.postgres
      MLPLATFORM_REDIS    = var.addresses.redis
      MLPLATFORM_KAFKA    = var.addresses.kafka
    },
    # brokers that ask for nobody get no password
    strcontains(var.addresses.kafka, "@") ? {} : { MLPLATFORM_KAFKA_PASSWORD_FILE = "" },
    { for u in compact([var.addresses.otlp_endpoint]) : "MLPLATFORM_OTLP_ENDPOINT" => u },
    { for u in compact([var.addresses.s3_endpoint]) : "AWS_ENDPOINT_URL_S3" => u },
    { for r in compact([var.addresses.s3_region]) : "AWS_REGION" => r },
    var.raw_gateway == null ? {} : {
      MLPLATFORM_RAW_GATEWAY = var.raw_gateway.gateway
      MLPLATFORM_RAW_DOMAIN  = var.raw_gateway.domain
    },
    var.sign_in == null ? {} : merge(
      {
        MLPLATFORM_PAGE_URL                   = var.sign_in.page
        MLPLATFORM_SIGN_IN_ISSUER             = var.sign_in.issuer
        MLPLATFORM_SIGN_IN_CLIENT_ID          = var.sign_in.client_id
        MLPLATFORM_SIGN_IN_ROLES              = "/run/secrets/sign-in/roles.yaml"
        MLPLATFORM_SIGN_IN_CLIENT_SECRET_FILE = var.sign_in.public ? "" : "/run/secrets/sign-in/client-secret"
      },
      { for v in compact([var.sign_in.scope]) : "MLPLATFORM_SIGN_IN_SCOPE" => v },
      { for v in compact([var.sign_in.groups_claim]) : "MLPLATFORM_SIGN_IN_GROUPS_CLAIM" => v },
      { for v in compact([var.sign_in.name_claim]) : "MLPLATFORM_SIGN_IN_NAME_CLAIM" => v },
    ),
    !var.spark ? {} : yamldecode(yamldecode(file("${local.manifests}/components/spark/kustomization.yaml")).patches[0].patch).data,
    var.jobs == null ? {} : {
      MLPLATFORM_ARGO_NAMESPACE = var.jobs.namespace
      MLPLATFORM_ARTIFACTS      = "s3://${var.jobs.bucket}"
    },
  )

  # Who an image is in the manifests is read there too: its name, and whatever tag they have at the time.
  workloads = join("\n", [for f in ["gateway", "mlflow", "prefect"] : file("${local.manifests}/workloads/${f}.yaml")])
  gateway   = one(distinct(regexall("mlplatform/gateway:[0-9][0-9.]*", local.workloads)))
  flows     = one(distinct(regexall("mlplatform/flows:[0-9][0-9.]*", local.workloads)))
  runtime   = file("${local.kserve}/runtimes/mlplatform-onnx.yaml")
  predictor = one(distinct(regexall("mlplatform/predictor:[0-9][0-9.]*", local.runtime)))

  # To whom the page answers, its probes too.
  page = one(distinct([for h in regexall("name: Host, value: \"([^\"]+)\"", file("${local.manifests}/workloads/page.yaml")) : h[0]]))

  mlflow_env = {
    for e in yamldecode(split("\n---\n", file("${local.manifests}/workloads/mlflow.yaml"))[0]).spec.template.spec.containers[0].env :
    e.name => try(e.value, "")
  }
  claim = one([
    for d in split("\n---\n", file("${local.manifests}/workloads/gateway.yaml")) : yamldecode(d)
    if yamldecode(d).kind == "PersistentVolumeClaim"
  ])
  volumes = {
    platform = { namespace = local.claim.metadata.namespace, source = var.bundles.platform }
    models   = { namespace = "mlplatform-models", source = var.bundles.models }
  }
  claimed = { for name, v in local.volumes : name => merge(local.claim.spec, {
    storageClassName = ""
    volumeName       = "mlplatform-bundles-${name}"
  }) }

  # Which ports the platform's state has, as its own network policies say.
  policies = [for d in split("\n---\n", file("${local.manifests}/base/network.yaml")) : yamldecode(d) if can(yamldecode(d).kind)]
  state_ports = distinct(flatten([
    for p in local.policies : [
      for e in try(p.spec.egress, []) : [for port in e.ports : port.port]
      if anytrue([for t in try(e.to, []) : can(t.namespaceSelector.matchLabels["mlplatform/state"])])
    ]
  ]))
}

module "base" {
  source           = "../manifests"
  folders          = ["${local.manifests}/base"]
  wait_for_rollout = var.wait_for_rollout
}

module "secrets" {
  source  = "../manifests"
  count   = var.external_secrets == null ? 0 : 1
  folders = ["${local.manifests}/components/external-secrets"]
  replacements = var.external_secrets.prefix == "mlplatform/" ? {} : {
    "key: mlplatform/" = "key: ${var.external_secrets.prefix}"
  }
  left_out         = var.external_secrets.left_out
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [module.base]
}

module "sign_in" {
  source           = "../manifests"
  count            = var.sign_in == null ? 0 : 1
  folders          = ["${local.manifests}/components/sign-in"]
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [module.base]
}

module "spark" {
  source           = "../manifests"
  count            = var.spark ? 1 : 0
  folders          = ["${local.manifests}/components/spark"]
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [module.base]
}

module "mesh" {
  source           = "../manifests"
  count            = var.mesh ? 1 : 0
  folders          = ["${local.manifests}/components/istio"]
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [module.base]
}

# Namespaces in the mesh carry its label: what the component's own patch does, by server-side apply under another manager.
resource "kubectl_manifest" "in_mesh" {
  for_each = var.mesh ? toset([for v in local.volumes : v.namespace]) : toset([])
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Namespace"
    metadata   = { name = each.value, labels = { "istio.io/dataplane-mode" = "ambient" } }
  })
  server_side_apply = true
  apply_only        = true
  depends_on        = [module.base]
}

resource "kubectl_manifest" "volume" {
  for_each = local.volumes
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "PersistentVolume"
    metadata   = { name = "mlplatform-bundles-${each.key}", labels = { "app.kubernetes.io/part-of" = "mlplatform" } }
    spec = merge(
      {
        capacity                      = local.claim.spec.resources.requests
        accessModes                   = local.claim.spec.accessModes
        persistentVolumeReclaimPolicy = "Retain"
        storageClassName              = ""
        claimRef                      = { apiVersion = "v1", kind = "PersistentVolumeClaim", namespace = each.value.namespace, name = local.claim.metadata.name }
      },
      each.value.source,
    )
  })
  server_side_apply = true
  wait              = true # for its end, at a destroy
  depends_on        = [module.base]
}

# In the predictors' namespace the claim has the same name and names the same files.
resource "kubectl_manifest" "claim_of_models" {
  yaml_body = yamlencode(merge(local.claim, {
    metadata = merge(local.claim.metadata, { namespace = "mlplatform-models" })
    spec     = local.claimed["models"]
  }))
  server_side_apply = true
  depends_on        = [kubectl_manifest.volume]
}

resource "kubectl_manifest" "state_outside" {
  for_each = length(var.state_ranges) == 0 ? toset([]) : toset([for v in local.volumes : v.namespace])
  yaml_body = yamlencode({
    apiVersion = "networking.k8s.io/v1"
    kind       = "NetworkPolicy"
    metadata   = { name = "state-outside", namespace = each.value }
    spec = {
      podSelector = {}
      policyTypes = ["Egress"]
      egress = [{
        to    = [for r in var.state_ranges : { ipBlock = { cidr = r } }]
        ports = [for p in local.state_ports : { protocol = "TCP", port = p }]
      }]
    }
  })
  server_side_apply = true
  depends_on        = [module.base]
}

resource "kubectl_manifest" "credentials" {
  count = var.credentials_address == null ? 0 : 1
  yaml_body = yamlencode({
    apiVersion = "networking.k8s.io/v1"
    kind       = "NetworkPolicy"
    metadata   = { name = "credentials", namespace = "mlplatform" }
    spec = {
      podSelector = {}
      policyTypes = ["Egress"]
      egress = [{
        to    = [{ ipBlock = { cidr = "${split(":", var.credentials_address)[0]}/32" } }]
        ports = [{ protocol = "TCP", port = tonumber(split(":", var.credentials_address)[1]) }]
      }]
    }
  })
  server_side_apply = true
  depends_on        = [module.base]
}

module "runtime" {
  source  = "../manifests"
  folders = []
  files = concat(
    ["${local.kserve}/runtimes/mlplatform-onnx.yaml"],
    var.images.predictor_gpu == null ? [] : ["${local.kserve}/runtimes/mlplatform-onnx-gpu.yaml"],
  )
  replacements = merge(
    { (local.predictor) = var.images.predictor },
    { for image in compact([var.images.predictor_gpu]) : replace(local.predictor, "predictor:", "predictor-gpu:") => image },
  )
  wait_for_rollout = var.wait_for_rollout
}

module "workloads" {
  source  = "../manifests"
  folders = ["${local.manifests}/workloads"]
  replacements = merge(var.sign_in == null ? {} : { (local.page) = trimprefix(var.sign_in.page, "https://") }, {
    (local.gateway)                                   = var.images.gateway
    (local.flows)                                     = var.images.flows
    (local.mlflow_env["MLPLATFORM_MLFLOW_POSTGRES"])  = var.addresses.mlflow_postgres
    (local.mlflow_env["MLPLATFORM_MLFLOW_ARTIFACTS"]) = var.addresses.mlflow_artifacts
  })
  patches = {
    "ConfigMap/mlplatform/platform" = { data = local.settings }
    "PersistentVolumeClaim/${local.claim.metadata.namespace}/${local.claim.metadata.name}" = {
      spec = { storageClassName = "", volumeName = "mlplatform-bundles-platform" }
    }
  }
  wait_for_rollout = var.wait_for_rollout
  depends_on       = [module.base, module.secrets, module.mesh, module.sign_in, module.spark, kubectl_manifest.volume]
}
