# Buckets, and the files that predictors and the platform share.
locals {
  buckets = {
    registry = null # versions of models are evidence: nothing is deleted by age
    jobs     = var.retention_days.jobs
    logs     = var.retention_days.logs
    traces   = var.retention_days.traces
  }
  # Two ways to one folder: a volume has a name of its own for each.
  mounts = toset(["platform", "models"])
}

resource "aws_s3_bucket" "main" {
  #checkov:skip=CKV_AWS_18:who read what is CloudTrail's to say, for the whole account
  #checkov:skip=CKV_AWS_144:an environment is in one region; what must outlive it is in the backup
  #checkov:skip=CKV2_AWS_62:nothing listens to events of these buckets
  for_each      = local.buckets
  bucket_prefix = "${var.name}-${each.key}-"
  force_destroy = !var.protect
}

resource "aws_s3_bucket_public_access_block" "main" {
  for_each                = local.buckets
  bucket                  = aws_s3_bucket.main[each.key].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "main" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.main[each.key].id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = var.key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "main" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.main[each.key].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "main" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.main[each.key].id

  rule {
    id     = "what-is-superseded-or-torn"
    status = "Enabled"
    filter {
      prefix = ""
    }
    noncurrent_version_expiration {
      noncurrent_days = 30
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
  dynamic "rule" {
    for_each = each.value == null ? [] : [each.value]
    content {
      id     = "age"
      status = "Enabled"
      filter {
        prefix = ""
      }
      expiration {
        days = rule.value
      }
      abort_incomplete_multipart_upload {
        days_after_initiation = 7
      }
    }
  }
  depends_on = [aws_s3_bucket_versioning.main]
}

data "aws_iam_policy_document" "encrypted" {
  for_each = local.buckets
  statement {
    sid       = "NothingUnencrypted"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.main[each.key].arn, "${aws_s3_bucket.main[each.key].arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "encrypted" {
  for_each   = local.buckets
  bucket     = aws_s3_bucket.main[each.key].id
  policy     = data.aws_iam_policy_document.encrypted[each.key].json
  depends_on = [aws_s3_bucket_public_access_block.main]
}

resource "aws_efs_file_system" "bundles" {
  encrypted       = true
  kms_key_id      = var.key_arn
  throughput_mode = "elastic"
  tags            = { Name = "${var.name}-bundles" }
  protection {
    replication_overwrite = "ENABLED"
  }
}

resource "aws_efs_backup_policy" "bundles" {
  file_system_id = aws_efs_file_system.bundles.id
  backup_policy {
    status = "ENABLED"
  }
}

resource "aws_efs_mount_target" "bundles" {
  for_each        = var.subnets
  file_system_id  = aws_efs_file_system.bundles.id
  subnet_id       = each.value
  security_groups = [aws_security_group.state["files"].id]
}

# Whoever mounts it is the user that platform and predictors run as.
resource "aws_efs_access_point" "bundles" {
  for_each       = local.mounts
  file_system_id = aws_efs_file_system.bundles.id
  posix_user {
    uid = 65532
    gid = 65532
  }
  root_directory {
    path = "/bundles"
    creation_info {
      owner_uid   = 65532
      owner_gid   = 65532
      permissions = "0750"
    }
  }
  tags = { Name = "${var.name}-${each.value}" }
}
