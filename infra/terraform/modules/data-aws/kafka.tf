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
      iam = true
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
