# Secrets come into the cluster by External Secrets. Terraform knows their names, and never a value.
locals {
  namespace = "external-secrets"
  account   = "external-secrets"

  from_namespace = { for n in compact([var.store.namespace]) : "kubernetes" => {
    remoteNamespace = n
    server          = { caProvider = { type = "ConfigMap", name = "kube-root-ca.crt", key = "ca.crt", namespace = local.namespace } }
    auth            = { serviceAccount = { name = local.account, namespace = local.namespace } }
  } }
  # Without `auth` it takes the identity of its own pod.
  from_aws = { for r in compact([var.store.region]) : "aws" => { service = "SecretsManager", region = r } }

  reads = { for kind, content in {
    Role = yamlencode({
      rules = [{ apiGroups = [""], resources = ["secrets"], verbs = ["get", "list", "watch"] }]
    })
    RoleBinding = yamlencode({
      roleRef  = { apiGroup = "rbac.authorization.k8s.io", kind = "Role", name = "bank" }
      subjects = [{ kind = "ServiceAccount", name = local.account, namespace = local.namespace }]
    })
  } : kind => content if var.store.namespace != null }
}

resource "helm_release" "external_secrets" {
  name             = "external-secrets"
  repository       = "https://charts.external-secrets.io"
  chart            = "external-secrets"
  version          = var.chart_version
  namespace        = local.namespace
  create_namespace = true
  atomic           = true
  values = [yamlencode({
    installCRDs    = true
    serviceAccount = { name = local.account }
    # Stores of a single namespace, and secrets pushed outwards, are nothing that the platform uses.
    processClusterExternalSecret = false
    processPushSecret            = false
  })]
}

resource "kubectl_manifest" "reads" {
  for_each = local.reads
  yaml_body = yamlencode(merge(
    {
      apiVersion = "rbac.authorization.k8s.io/v1"
      kind       = each.key
      metadata   = { name = "bank", namespace = var.store.namespace }
    },
    yamldecode(each.value),
  ))
  server_side_apply = true
}

resource "kubectl_manifest" "store" {
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ClusterSecretStore"
    metadata   = { name = "bank" }
    spec = {
      provider   = merge(local.from_namespace, local.from_aws)
      conditions = [{ namespaces = var.readers }]
    }
  })
  server_side_apply = true
  depends_on        = [helm_release.external_secrets, kubectl_manifest.reads]
}
