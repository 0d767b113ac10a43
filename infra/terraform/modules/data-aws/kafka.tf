resource "aws_msk_configuration" "main" {
  count = var.kafka == null ? 0 : 1
  name  = var.name
  # Records of decisions go through it: three copies, two of which are written before an answer.
  server_properties = <<-EOT
    auto.create.topics.enable=false
    default.replication.factor=${min(3, length(var.subnets))}
    min.insync.replicas=${min(3, length(var.subnets)) - 1}
    unclean.leader.election.enable=false
  EOT
}

resource "aws_cloudwatch_log_group" "kafka" {
  count             = var.kafka == null ? 0 : 1
  name              = "/${var.name}/kafka"
  retention_in_days = 365
  kms_key_id        = var.key_arn
}

resource "aws_msk_cluster" "main" {
  count                  = var.kafka == null ? 0 : 1
  cluster_name           = var.name
  kafka_version          = var.kafka.version
  number_of_broker_nodes = var.kafka.brokers_per_zone * length(var.subnets)
  enhanced_monitoring    = "PER_TOPIC_PER_BROKER"

  broker_node_group_info {
    instance_type   = var.kafka.machine
    client_subnets  = local.subnets
    security_groups = [aws_security_group.state["kafka"].id]
    storage_info {
      ebs_storage_info {
        volume_size = var.kafka.disk_gib
      }
    }
  }
  client_authentication {
    unauthenticated = false
    sasl {
      scram = true # SCRAM-SHA-512, the only one that MSK has
    }
  }
  configuration_info {
    arn      = aws_msk_configuration.main[0].arn
    revision = aws_msk_configuration.main[0].latest_revision
  }
  encryption_info {
    encryption_at_rest_kms_key_arn = var.key_arn
    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }
  logging_info {
    broker_logs {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.kafka[0].name
      }
    }
  }
}

# MSK reads its users from entries of this name that have a key of the account's own; External Secrets reads the other (secrets.tf).
resource "aws_secretsmanager_secret" "kafka" {
  #checkov:skip=CKV2_AWS_57:a password changes in the server and here together, by passwords_version
  count                   = var.kafka == null ? 0 : 1
  name                    = "AmazonMSK_${var.name}"
  description             = "User of Kafka of ${var.name}"
  kms_key_id              = var.key_arn
  recovery_window_in_days = var.protect ? 30 : 7
}

resource "aws_secretsmanager_secret_version" "kafka" {
  count                    = var.kafka == null ? 0 : 1
  secret_id                = aws_secretsmanager_secret.kafka[0].id
  secret_string_wo         = local.values == null ? null : jsonencode({ username = local.kafka_user, password = local.values["kafka"].password })
  secret_string_wo_version = var.passwords_version
}

resource "aws_msk_scram_secret_association" "main" {
  count           = var.kafka == null ? 0 : 1
  cluster_arn     = aws_msk_cluster.main[0].arn
  secret_arn_list = [aws_secretsmanager_secret.kafka[0].arn]
  depends_on      = [aws_secretsmanager_secret_version.kafka]
}
