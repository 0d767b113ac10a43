output "namespace" {
  description = "Where the state is, and where the store `bank` reads Secrets."
  value       = local.namespace
}

output "addresses" {
  description = "As the platform module takes them: without encryption, for the network of one cluster."
  value = {
    postgres         = "postgresql://mlplatform@postgres-rw.${local.namespace}:5432/mlplatform?sslmode=disable"
    redis            = "redis://mlplatform@redis.${local.namespace}:6379/0"
    mlflow_postgres  = "postgresql://mlflow@postgres-rw.${local.namespace}:5432/mlflow?sslmode=disable"
    mlflow_artifacts = "s3://mlplatform-registry/mlflow"
    s3_endpoint      = "http://s3.${local.namespace}:${local.s3_port}"
    s3_region        = "us-east-1"
  }
  depends_on = [kubectl_manifest.database, helm_release.redis, kubectl_manifest.objects, kubectl_manifest.objects_service]
}

output "kafka" {
  description = "Brokers of Kafka, or null where there is none."
  value       = var.kafka ? "kafka-kafka-bootstrap.${local.namespace}:9092" : null
}
