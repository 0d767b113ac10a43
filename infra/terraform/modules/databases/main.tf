# Roles and databases within PostgreSQL, by a Job in the cluster: it alone reaches the server, and passwords never leave it.
locals {
  namespace = "mlplatform"
  script    = file("${path.module}/databases.py")
  name      = "databases-${substr(sha256("${local.script} ${var.image} ${var.run}"), 0, 8)}"
  labels    = { "app.kubernetes.io/name" = "mlplatform-databases", "app.kubernetes.io/part-of" = "mlplatform" }
  entries = {
    username   = { key = var.database.secret, property = "username" }
    password   = { key = var.database.secret, property = "password" }
    mlplatform = { key = "${var.secrets_prefix}postgres", property = "password" }
    mlflow     = { key = "${var.secrets_prefix}mlflow", property = "postgres-password" }
    prefect    = { key = "${var.secrets_prefix}prefect", property = "postgres-password" }
  }
}

resource "kubectl_manifest" "secret" {
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ExternalSecret"
    metadata   = { name = "databases", namespace = local.namespace, labels = local.labels }
    spec = {
      refreshInterval = "15m"
      secretStoreRef  = { kind = "ClusterSecretStore", name = "bank" }
      target          = { name = "databases" }
      data            = [for name, entry in local.entries : { secretKey = name, remoteRef = entry }]
    }
  })
  server_side_apply = true
}

resource "kubectl_manifest" "script" {
  yaml_body = yamlencode({
    apiVersion = "v1"
    kind       = "ConfigMap"
    metadata   = { name = local.name, namespace = local.namespace, labels = local.labels }
    data       = { "databases.py" = local.script }
  })
  server_side_apply = true
}

resource "kubectl_manifest" "job" {
  yaml_body = yamlencode({
    apiVersion = "batch/v1"
    kind       = "Job"
    metadata   = { name = local.name, namespace = local.namespace, labels = local.labels }
    spec = {
      backoffLimit = 10
      template = {
        metadata = { labels = local.labels }
        spec = {
          restartPolicy                = "OnFailure"
          automountServiceAccountToken = false
          enableServiceLinks           = false
          securityContext              = { runAsNonRoot = true, runAsUser = 65532, runAsGroup = 65532, fsGroup = 65532, seccompProfile = { type = "RuntimeDefault" } }
          containers = [{
            name    = "databases"
            image   = var.image
            command = ["python", "/etc/databases/databases.py", "/run/secrets/databases"]
            env = concat(
              [{ name = "PGHOST", value = var.database.host }, { name = "PGPORT", value = tostring(var.database.port) }],
              [for a in compact([var.authority]) : { name = "PGSSLROOTCERT", value = a }],
            )
            resources       = { requests = { cpu = "100m", memory = "128Mi" }, limits = { cpu = "500m", memory = "256Mi" } }
            securityContext = { allowPrivilegeEscalation = false, readOnlyRootFilesystem = true, capabilities = { drop = ["ALL"] } }
            volumeMounts = [
              { name = "script", mountPath = "/etc/databases", readOnly = true },
              { name = "secrets", mountPath = "/run/secrets/databases", readOnly = true },
            ]
          }]
          volumes = [
            { name = "script", configMap = { name = local.name } },
            { name = "secrets", secret = { secretName = "databases", defaultMode = 288 } }, # 0440
          ]
        }
      }
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.secret, kubectl_manifest.script]

  lifecycle {
    precondition {
      condition     = can(regex("^[a-z0-9.-]+$", var.database.host))
      error_message = "The database's host is not a host name."
    }
  }
}
