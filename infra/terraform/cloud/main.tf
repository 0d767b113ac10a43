# From an empty account to the cluster and its state. What runs in the cluster is in platform.tf.
locals {
  name       = "mlplatform-${var.environment}"
  prefix     = "mlplatform/${var.environment}/"
  repository = abspath("${path.root}/../../..")
}

module "network" {
  source           = "../modules/network"
  name             = local.name
  range            = var.network.range
  zones            = var.network.zones
  gateway_per_zone = var.network.gateway_per_zone
  key_arn          = aws_kms_key.main.arn
}

module "cluster" {
  source     = "../modules/cluster"
  name       = local.name
  subnets    = module.network.private_subnets
  key_arn    = aws_kms_key.main.arn
  operators  = var.operators
  api_ranges = var.api_ranges
  pools      = var.pools
  gpu_pools  = var.gpu_pools
  most_gpus  = var.most_gpus
  protect    = var.protect
}

module "state" {
  source            = "../modules/data-aws"
  name              = local.name
  vpc_id            = module.network.vpc_id
  subnets           = module.network.data_subnets
  client_group_id   = module.cluster.security_group_id
  key_arn           = aws_kms_key.main.arn
  postgres          = var.postgres
  redis             = var.redis
  kafka             = var.kafka
  passwords         = var.passwords
  passwords_version = var.passwords_version
  secrets_prefix    = local.prefix
  authority         = var.authority
  protect           = var.protect
}
