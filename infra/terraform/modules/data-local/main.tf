# The platform's state on the cluster itself: for one machine, a laptop's kind or a test environment. Nothing of it is
# encrypted between pods or replicated; the cloud's module is for what counts.
locals {
  namespace = var.namespace
}

resource "helm_release" "postgres_operator" {
  name             = "cloudnative-pg"
  repository       = "https://cloudnative-pg.github.io/charts"
  chart            = "cloudnative-pg"
  version          = var.versions.cloudnative_pg
  namespace        = "cnpg-system"
  create_namespace = true
  atomic           = true
}

resource "kubectl_manifest" "postgres" {
  yaml_body = yamlencode({
    apiVersion = "postgresql.cnpg.io/v1"
    kind       = "Cluster"
    metadata   = { name = "postgres", namespace = local.namespace }
    spec = {
      instances = 1
      storage   = { size = var.sizes.postgres }
      bootstrap = { initdb = { database = "mlplatform", owner = "mlplatform", secret = { name = "postgres" } } }
      managed = {
        roles = [for r in ["mlflow", "prefect"] : { name = r, ensure = "present", login = true, passwordSecret = { name = r } }]
      }
    }
  })
  server_side_apply = true
  depends_on        = [helm_release.postgres_operator, kubectl_manifest.secret]
}

resource "kubectl_manifest" "database" {
  for_each = toset(["mlflow", "prefect"])
  yaml_body = yamlencode({
    apiVersion = "postgresql.cnpg.io/v1"
    kind       = "Database"
    metadata   = { name = each.value, namespace = local.namespace }
    spec       = { name = each.value, owner = each.value, cluster = { name = "postgres" } }
  })
  server_side_apply = true
  depends_on        = [kubectl_manifest.postgres]
}

resource "helm_release" "redis" {
  name       = "redis"
  repository = "https://valkey.io/valkey-helm"
  chart      = "valkey"
  version    = var.versions.valkey
  namespace  = local.namespace
  atomic     = true
  values = [yamlencode({
    fullnameOverride = "redis"
    auth = {
      enabled             = true
      usersExistingSecret = "redis"
      # The probes speak as `default`, which may ask whether the server is there and nothing else.
      aclUsers = {
        default    = { permissions = "-@all +ping", passwordKey = "password" }
        mlplatform = { permissions = "~* &* +@all", passwordKey = "password" }
      }
    }
    dataStorage = { enabled = true, requestedSize = var.sizes.redis }
  })]
  depends_on = [kubectl_manifest.secret]
}

resource "helm_release" "kafka_operator" {
  count            = var.kafka ? 1 : 0
  name             = "strimzi"
  repository       = "oci://quay.io/strimzi-helm"
  chart            = "strimzi-kafka-operator"
  version          = var.versions.strimzi
  namespace        = "strimzi"
  create_namespace = true
  atomic           = true
  values           = [yamlencode({ watchNamespaces = [local.namespace] })]
}

resource "kubectl_manifest" "kafka" {
  for_each = { for kind, spec in {
    KafkaNodePool = yamlencode({
      replicas = 1
      roles    = ["controller", "broker"]
      storage  = { type = "jbod", volumes = [{ id = 0, type = "persistent-claim", size = var.sizes.kafka, kraftMetadata = "shared" }] }
    })
    Kafka = yamlencode({
      kafka = {
        version   = var.versions.kafka
        listeners = [{ name = "plain", port = 9092, type = "internal", tls = false }]
        config    = { for name in ["offsets.topic.replication.factor", "transaction.state.log.replication.factor", "transaction.state.log.min.isr", "default.replication.factor", "min.insync.replicas"] : name => 1 }
      }
    })
  } : kind => spec if var.kafka }
  yaml_body = yamlencode({
    apiVersion = "kafka.strimzi.io/v1"
    kind       = each.key
    metadata   = { name = "kafka", namespace = local.namespace, labels = { "strimzi.io/cluster" = "kafka" } }
    spec       = yamldecode(each.value)
  })
  server_side_apply = true
  depends_on        = [helm_release.kafka_operator]
}
