# Who in the cluster may do what in the account. Everything that is not here has no identity of the account at all.
locals {
  uses_key = { actions = ["kms:Decrypt", "kms:GenerateDataKey"], resources = [aws_kms_key.main.arn] }
  objects  = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
  bucket   = { for purpose, b in module.state.buckets : purpose => b.arn }
  uses_bucket = { for purpose, arn in local.bucket : purpose => [
    { actions = ["s3:ListBucket", "s3:GetBucketLocation"], resources = [arn] },
    { actions = local.objects, resources = ["${arn}/*"] },
    local.uses_key,
  ] }
}

module "reads_secrets" {
  source  = "../modules/identity"
  cluster = module.cluster.name
  account = "external-secrets/external-secrets"
  rights = [
    { actions = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"], resources = module.state.secret_arns },
    { actions = ["kms:Decrypt"], resources = [aws_kms_key.main.arn] },
  ]
}

module "stores_versions" {
  source  = "../modules/identity"
  cluster = module.cluster.name
  account = "mlplatform/mlflow"
  rights  = local.uses_bucket["registry"]
}

module "starts_jobs" {
  source   = "../modules/identity"
  for_each = toset(["mlplatform/batches", "${local.jobs}/mlplatform-jobs"])
  cluster  = module.cluster.name
  account  = each.value
  rights   = local.uses_bucket["jobs"]
}

module "stores_telemetry" {
  source   = "../modules/identity"
  for_each = { logs = "telemetry/loki", traces = "telemetry/tempo" }
  cluster  = module.cluster.name
  account  = each.value
  rights   = local.uses_bucket[each.key]
}
