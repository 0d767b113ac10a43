locals {
  tls = "sslmode=verify-full${var.authority == null ? "" : "&sslrootcert=${var.authority}"}"
}

output "addresses" {
  description = "As the platform module takes them."
  value = {
    postgres         = "postgresql://mlplatform@${local.host}:${local.ports.postgres}/mlplatform?${local.tls}"
    redis            = "rediss://mlplatform@${aws_elasticache_replication_group.main.primary_endpoint_address}:${local.ports.redis}/0"
    mlflow_postgres  = "postgresql://mlflow@${local.host}:${local.ports.postgres}/mlflow?${local.tls}"
    mlflow_artifacts = "s3://${aws_s3_bucket.main["registry"].bucket}/mlflow"
    kafka            = one([for c in aws_msk_cluster.main : "kafka+ssl://${local.kafka_user}@${c.bootstrap_brokers_sasl_scram}"])
  }
}

output "buckets" {
  description = "Purpose (registry, jobs, logs, traces) to a bucket's name and ARN."
  value       = { for purpose, b in aws_s3_bucket.main : purpose => { name = b.bucket, arn = b.arn } }
}

output "bundles" {
  description = "As the platform module takes them: a PersistentVolume's source for each namespace."
  value = { for mount, p in aws_efs_access_point.bundles : mount => {
    csi = { driver = "efs.csi.aws.com", volumeHandle = "${aws_efs_file_system.bundles.id}::${p.id}" }
  } }
  depends_on = [aws_efs_mount_target.bundles]
}

output "database" {
  description = "Host and port of PostgreSQL, and the entry in Secrets Manager of its administrator, whose password RDS changes."
  value = {
    host   = local.host
    port   = local.ports.postgres
    secret = aws_db_instance.main.master_user_secret[0].secret_arn
  }
}

output "secret_arns" {
  description = "Entries that External Secrets may read."
  value       = concat([for s in aws_secretsmanager_secret.main : s.arn], [aws_db_instance.main.master_user_secret[0].secret_arn])
}
