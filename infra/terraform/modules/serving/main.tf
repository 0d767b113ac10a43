# What the predictors need of a cluster, in order: each chart brings its definitions before anything is written in their words.
resource "helm_release" "cert_manager" {
  name             = "cert-manager"
  repository       = "oci://quay.io/jetstack/charts"
  chart            = "cert-manager"
  version          = var.versions.cert_manager
  namespace        = "cert-manager"
  create_namespace = true
  atomic           = true
  # `keep`: taking the chart away does not take every certificate with it.
  values = [yamlencode({ crds = { enabled = true, keep = true } })]
}

# Its chart brings Gateway API's definitions, of the release that this version was built with.
resource "helm_release" "envoy_gateway" {
  name             = "envoy-gateway"
  repository       = "oci://docker.io/envoyproxy"
  chart            = "gateway-helm"
  version          = var.versions.envoy_gateway
  namespace        = "envoy-gateway-system"
  create_namespace = true
  atomic           = true
}

resource "kubectl_manifest" "gateway_class" {
  yaml_body = yamlencode({
    apiVersion = "gateway.networking.k8s.io/v1"
    kind       = "GatewayClass"
    metadata   = { name = "envoy" }
    spec       = { controllerName = "gateway.envoyproxy.io/gatewayclass-controller" }
  })
  server_side_apply = true
  depends_on        = [helm_release.envoy_gateway]
}

resource "helm_release" "kserve_crd" {
  name             = "kserve-crd"
  repository       = "oci://ghcr.io/kserve/charts"
  chart            = "kserve-crd"
  version          = var.versions.kserve
  namespace        = "kserve"
  create_namespace = true
  atomic           = true
}

# KServe wants this Gateway to be there. The platform's services are all of the cluster alone, so nothing listens for them.
resource "kubectl_manifest" "kserve_gateway" {
  yaml_body = yamlencode({
    apiVersion = "gateway.networking.k8s.io/v1"
    kind       = "Gateway"
    metadata   = { name = "kserve-ingress-gateway", namespace = "kserve" }
    spec = {
      gatewayClassName = "envoy"
      listeners        = [{ name = "http", protocol = "HTTP", port = 80, allowedRoutes = { namespaces = { from = "Same" } } }]
      infrastructure   = { labels = { "app.kubernetes.io/part-of" = "mlplatform" } }
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.gateway_class, helm_release.kserve_crd]
}

resource "helm_release" "kserve" {
  name       = "kserve"
  repository = "oci://ghcr.io/kserve/charts"
  chart      = "kserve-resources"
  version    = var.versions.kserve
  namespace  = "kserve"
  atomic     = true
  values = [yamlencode({
    kserve = {
      controller = {
        deploymentMode = "Standard" # the chart's default would need Knative
        gateway = {
          disableIstioVirtualHost = true
          ingressGateway          = { enableGatewayApi = true, kserveGateway = "kserve/kserve-ingress-gateway", createGateway = false }
        }
      }
      # Predictors ask no API server.
      security = { autoMountServiceAccountToken = false }
    }
  })]
  depends_on = [helm_release.cert_manager, helm_release.kserve_crd, helm_release.keda, kubectl_manifest.kserve_gateway]
}

resource "helm_release" "keda" {
  count            = var.keda ? 1 : 0
  name             = "keda"
  repository       = "https://kedacore.github.io/charts"
  chart            = "keda"
  version          = var.versions.keda
  namespace        = "keda"
  create_namespace = true
  atomic           = true
}

resource "helm_release" "argo_workflows" {
  count            = var.argo == null ? 0 : 1
  name             = "argo-workflows"
  repository       = "oci://ghcr.io/argoproj/argo-helm"
  chart            = "argo-workflows"
  version          = var.versions.argo_workflows
  namespace        = "argo"
  create_namespace = true
  atomic           = true
  values = [yamlencode({
    server     = { enabled = false } # the platform speaks to the API server alone
    workflow   = { serviceAccount = { create = false }, rbac = { create = false } }
    controller = { workflowNamespaces = var.argo }
  })]
}

resource "kubectl_manifest" "public_namespace" {
  count = var.public_gateway == null ? 0 : 1
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Namespace"
    metadata   = { name = "edge", labels = { "mlplatform/calls-gateway" = "true", "mlplatform/raw-callers" = "true" } }
  })
  server_side_apply = true
}

# Scoring from outside: TLS ends here, and the platform's gateway authenticates each call itself.
resource "kubectl_manifest" "public_gateway" {
  count = var.public_gateway == null ? 0 : 1
  yaml_body = yamlencode({
    apiVersion = "gateway.networking.k8s.io/v1"
    kind       = "Gateway"
    metadata   = { name = "public", namespace = "edge" }
    spec = {
      gatewayClassName = "envoy"
      listeners = [{
        name          = "https"
        protocol      = "HTTPS"
        port          = 443
        hostname      = var.public_gateway.host
        tls           = { mode = "Terminate", certificateRefs = [{ name = var.public_gateway.tls_secret }] }
        allowedRoutes = { namespaces = { from = "Selector", selector = { matchLabels = { "kubernetes.io/metadata.name" = "mlplatform" } } } }
      }]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.public_namespace, kubectl_manifest.gateway_class]
}
