# One SeaweedFS, which speaks S3 on the port that the platform's network policies let through. A bucket is there once
# something is written to it.
locals {
  s3_port = 443
  s3_name = { "app.kubernetes.io/name" = "s3" }
}

resource "kubectl_manifest" "s3_identities" {
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ExternalSecret"
    metadata   = { name = "s3-identities", namespace = local.namespace }
    spec = {
      refreshPolicy  = "CreatedOnce"
      secretStoreRef = { kind = "ClusterSecretStore", name = "bank" }
      target = {
        name = "s3-identities"
        template = {
          engineVersion = "v2"
          data = { "s3.json" = jsonencode({
            identities = [{
              name        = "mlplatform"
              credentials = [{ accessKey = "{{ .id }}", secretKey = "{{ .key }}" }]
              actions     = ["Admin", "Read", "Write", "List", "Tagging"]
            }]
          }) }
        }
      }
      data = [
        { secretKey = "id", remoteRef = { key = "s3", property = "access-key-id" } },
        { secretKey = "key", remoteRef = { key = "s3", property = "secret-access-key" } },
      ]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.secret]
}

resource "kubectl_manifest" "objects" {
  yaml_body = yamlencode({
    apiVersion = "apps/v1"
    kind       = "StatefulSet"
    metadata   = { name = "s3", namespace = local.namespace, labels = local.s3_name }
    spec = {
      serviceName = "s3"
      replicas    = 1
      selector    = { matchLabels = local.s3_name }
      template = {
        metadata = { labels = local.s3_name }
        spec = {
          automountServiceAccountToken = false
          securityContext = {
            runAsNonRoot   = true
            runAsUser      = 65532
            runAsGroup     = 65532
            fsGroup        = 65532
            seccompProfile = { type = "RuntimeDefault" }
            sysctls        = [{ name = "net.ipv4.ip_unprivileged_port_start", value = tostring(local.s3_port) }]
          }
          containers = [{
            name           = "s3"
            image          = var.versions.seaweedfs
            command        = ["weed"]
            args           = ["server", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=0.0.0.0", "-filer", "-s3", "-s3.port=${local.s3_port}", "-s3.config=/etc/s3/s3.json"]
            ports          = [{ name = "s3", containerPort = local.s3_port }]
            readinessProbe = { tcpSocket = { port = "s3" }, periodSeconds = 2 }
            resources      = { requests = { cpu = "200m", memory = "256Mi" }, limits = { cpu = "1", memory = "1Gi" } }
            securityContext = {
              allowPrivilegeEscalation = false
              readOnlyRootFilesystem   = true
              capabilities             = { drop = ["ALL"] }
            }
            volumeMounts = [
              { name = "data", mountPath = "/data" },
              { name = "identities", mountPath = "/etc/s3", readOnly = true },
              { name = "tmp", mountPath = "/tmp" },
            ]
          }]
          volumes = [
            { name = "identities", secret = { secretName = "s3-identities" } },
            { name = "tmp", emptyDir = {} },
          ]
        }
      }
      volumeClaimTemplates = [{
        metadata = { name = "data" }
        spec     = { accessModes = ["ReadWriteOnce"], resources = { requests = { storage = var.sizes.objects } } }
      }]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.s3_identities]
}

resource "kubectl_manifest" "objects_service" {
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "Service"
    metadata   = { name = "s3", namespace = local.namespace, labels = local.s3_name }
    spec       = { selector = local.s3_name, ports = [{ name = "s3", port = local.s3_port, targetPort = "s3" }] }
  })
  server_side_apply = true
}
