# What External Secrets reads. Values are write-only: they are in Secrets Manager, and nowhere in Terraform's state.
locals {
  host = aws_db_instance.main.address
  values = var.passwords == null ? null : {
    postgres = { password = var.passwords.postgres }
    redis    = { password = var.passwords.redis }
    kafka    = { password = var.passwords.kafka }
    mlflow   = { "postgres-password" = var.passwords.mlflow_postgres, token = var.passwords.mlflow_token }
    prefect = {
      "postgres-password" = var.passwords.prefect_postgres
      "database-url"      = "postgresql+asyncpg://prefect:${var.passwords.prefect_postgres}@${local.host}:${local.ports.postgres}/prefect?ssl=verify-full"
      auth                = "platform:${var.passwords.prefect_api}"
    }
    "prefect-reader" = { auth = "reader:${var.passwords.prefect_reader}" }

    exporter = { token = var.passwords.exporter_token }
    page     = { token = var.passwords.page_token }
    worker   = { token = var.passwords.worker_token }
  }
  kafka_user = "mlplatform"
  written    = toset(concat(["postgres", "redis", "mlflow", "prefect", "prefect-reader", "exporter", "page", "worker"], [for k in var.kafka[*] : "kafka"]))
}

resource "aws_secretsmanager_secret" "main" {
  #checkov:skip=CKV2_AWS_57:a password changes in the server and here together, by passwords_version
  # `metrics` and `alerts` are filled by hand: keys of the gateway (docs/security.md), and of the receivers of alerts.
  for_each                = setunion(local.written, ["metrics", "alerts"])
  name                    = "${var.secrets_prefix}${each.value}"
  description             = "${each.value} of ${var.name}"
  kms_key_id              = var.key_arn
  recovery_window_in_days = var.protect ? 30 : 7
}

resource "aws_secretsmanager_secret_version" "main" {
  for_each                 = local.written
  secret_id                = aws_secretsmanager_secret.main[each.value].id
  secret_string_wo         = local.values == null ? null : jsonencode(local.values[each.value])
  secret_string_wo_version = var.passwords_version
}
