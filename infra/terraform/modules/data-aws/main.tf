# PostgreSQL, Redis and Kafka as AWS runs them: encrypted, in subnets without a way out, for the cluster's pods alone.
locals {
  ports = merge(
    { postgres = 5432, redis = 6379, files = 2049 },
    { for k in var.kafka[*] : "kafka" => 9096 }, # TLS, users by SCRAM
  )
  subnets = values(var.subnets)
  # The password is ephemeral: it reaches write-only arguments, and no state or plan.
  redis_password = try(var.passwords.redis, null)
}

resource "aws_security_group" "state" {
  #checkov:skip=CKV2_AWS_5:each is attached by its key, which checkov does not follow
  for_each    = local.ports
  name        = "${var.name}-${each.key}"
  description = "${each.key} of ${var.name}, for the pods of the cluster"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-${each.key}" }
}

resource "aws_vpc_security_group_ingress_rule" "pods" {
  for_each                     = local.ports
  security_group_id            = aws_security_group.state[each.key].id
  referenced_security_group_id = var.client_group_id
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
  description                  = "pods of the cluster"
}

resource "aws_db_subnet_group" "main" {
  name       = var.name
  subnet_ids = local.subnets
}

resource "aws_db_parameter_group" "main" {
  name_prefix = "${var.name}-"
  family      = "postgres${split(".", var.postgres.version)[0]}"

  dynamic "parameter" {
    for_each = { "rds.force_ssl" = "1", log_connections = "1", log_disconnections = "1", log_statement = "ddl" }
    content {
      name  = parameter.key
      value = parameter.value
    }
  }
  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "main" {
  #checkov:skip=CKV_AWS_157:a standby is the default of var.postgres, which checkov does not read
  #checkov:skip=CKV_AWS_133:var.postgres holds backups to 7 days or more, which checkov does not read
  #checkov:skip=CKV2_AWS_69:rds.force_ssl is among the parameters of the group, in a dynamic block
  identifier                          = var.name
  engine                              = "postgres"
  engine_version                      = var.postgres.version
  instance_class                      = var.postgres.machine
  allocated_storage                   = var.postgres.disk_gib
  max_allocated_storage               = var.postgres.disk_most
  storage_type                        = "gp3"
  storage_encrypted                   = true
  kms_key_id                          = var.key_arn
  username                            = "postgres"
  manage_master_user_password         = true # by RDS, in Secrets Manager, and changed there
  master_user_secret_kms_key_id       = var.key_arn
  db_subnet_group_name                = aws_db_subnet_group.main.name
  parameter_group_name                = aws_db_parameter_group.main.name
  vpc_security_group_ids              = [aws_security_group.state["postgres"].id]
  publicly_accessible                 = false
  multi_az                            = var.postgres.standby
  backup_retention_period             = var.postgres.backup_days
  copy_tags_to_snapshot               = true
  deletion_protection                 = var.protect
  skip_final_snapshot                 = !var.protect
  final_snapshot_identifier           = "${var.name}-final"
  auto_minor_version_upgrade          = true
  iam_database_authentication_enabled = true
  performance_insights_enabled        = true
  performance_insights_kms_key_id     = var.key_arn
  enabled_cloudwatch_logs_exports     = ["postgresql", "upgrade"]
  monitoring_interval                 = 60
  monitoring_role_arn                 = aws_iam_role.monitoring.arn
}

data "aws_iam_policy_document" "monitoring" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["monitoring.rds.amazonaws.com"]
    }
  }
}

data "aws_partition" "here" {}

resource "aws_iam_role" "monitoring" {
  name               = "${var.name}-rds-monitoring"
  assume_role_policy = data.aws_iam_policy_document.monitoring.json
}

resource "aws_iam_role_policy_attachment" "monitoring" {
  role       = aws_iam_role.monitoring.name
  policy_arn = "arn:${data.aws_partition.here.partition}:iam::aws:policy/service-role/AmazonRDSEnhancedMonitoringRole"
}

resource "aws_elasticache_subnet_group" "main" {
  name       = var.name
  subnet_ids = local.subnets
}

# `default` may do nothing, and nobody has its password: it is there because a group must have one of that name.
resource "aws_elasticache_user" "nobody" {
  user_id       = "${var.name}-nobody"
  user_name     = "default"
  engine        = "valkey"
  access_string = "off ~* -@all"
  authentication_mode {
    type = "no-password-required"
  }
}

resource "aws_elasticache_user" "platform" {
  user_id              = "${var.name}-platform"
  user_name            = "mlplatform"
  engine               = "valkey"
  access_string        = "on ~* &* +@all -@dangerous +info"
  passwords_wo         = local.redis_password
  passwords_wo_version = var.passwords_version
}

resource "aws_elasticache_user_group" "main" {
  engine        = "valkey"
  user_group_id = var.name
  user_ids      = [aws_elasticache_user.nobody.user_id, aws_elasticache_user.platform.user_id]
}

resource "aws_elasticache_replication_group" "main" {
  replication_group_id       = var.name
  description                = "Online features and rate limits of ${var.name}"
  engine                     = "valkey"
  engine_version             = var.redis.version
  node_type                  = var.redis.machine
  num_cache_clusters         = var.redis.nodes
  automatic_failover_enabled = true
  multi_az_enabled           = true
  at_rest_encryption_enabled = true
  kms_key_id                 = var.key_arn
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  user_group_ids             = [aws_elasticache_user_group.main.user_group_id]
  subnet_group_name          = aws_elasticache_subnet_group.main.name
  security_group_ids         = [aws_security_group.state["redis"].id]
  snapshot_retention_limit   = 7
  apply_immediately          = false
}
