# Passwords are made in the cluster, once, by External Secrets' generator: no value passes through Terraform.
locals {
  password = { sourceRef = { generatorRef = { apiVersion = "generators.external-secrets.io/v1alpha1", kind = "Password", name = "password" } } }

  # Secret → how many random words it needs, and what it holds of them.
  secrets = {
    postgres = { words = ["password"], data = { username = "mlplatform", password = "{{ .password }}" } }
    redis    = { words = ["password"], data = { password = "{{ .password }}" } }
    mlflow = {
      words = ["password", "token"]
      data = {
        username            = "mlflow"
        password            = "{{ .password }}"
        "postgres-password" = "{{ .password }}"
        token               = "{{ .token }}"
      }
    }
    prefect = {
      words = ["password", "api"]
      data = {
        username       = "prefect"
        password       = "{{ .password }}"
        "database-url" = "postgresql+asyncpg://prefect:{{ .password }}@postgres-rw.${local.namespace}:5432/prefect"
        auth           = "platform:{{ .api }}"
      }
    }
    "prefect-reader" = { words = ["token"], data = { auth = "reader:{{ .token }}" } }

    exporter = { words = ["token"], data = { token = "{{ .token }}" } }
    page     = { words = ["token"], data = { token = "{{ .token }}" } }
    worker   = { words = ["token"], data = { token = "{{ .token }}" } }
    s3 = {
      words = ["password", "id"]
      data  = { "access-key-id" = "{{ .id }}", "secret-access-key" = "{{ .password }}" }
    }
  }
}

resource "kubectl_manifest" "password" {
  yaml_body = yamlencode({
    apiVersion = "generators.external-secrets.io/v1alpha1"
    kind       = "Password"
    metadata   = { name = "password", namespace = local.namespace }
    spec       = { length = 40, digits = 10, symbols = 0, noUpper = false, allowRepeat = true }
  })
  server_side_apply = true
}

resource "kubectl_manifest" "secret" {
  for_each = local.secrets
  yaml_body = yamlencode({
    apiVersion = "external-secrets.io/v1"
    kind       = "ExternalSecret"
    metadata   = { name = each.key, namespace = local.namespace }
    spec = {
      refreshPolicy = "CreatedOnce"
      target        = { name = each.key, creationPolicy = "Owner", template = { engineVersion = "v2", data = each.value.data } }
      dataFrom = [
        for w in each.value.words : merge(local.password, { rewrite = [{ regexp = { source = "password", target = w } }] })
      ]
    }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.password]
}
