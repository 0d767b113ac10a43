# Rights of one ServiceAccount by EKS Pod Identity: there is no key to keep, and none to lose.
data "aws_iam_policy_document" "assumed" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "rights" {
  dynamic "statement" {
    for_each = var.rights
    content {
      actions   = statement.value.actions
      resources = statement.value.resources
    }
  }
}

resource "aws_iam_role" "main" {
  name_prefix        = "${substr("${var.cluster}-${replace(var.account, "/", "-")}", 0, 37)}-"
  assume_role_policy = data.aws_iam_policy_document.assumed.json
}

resource "aws_iam_role_policy" "main" {
  name   = "rights"
  role   = aws_iam_role.main.id
  policy = data.aws_iam_policy_document.rights.json
}

resource "aws_eks_pod_identity_association" "main" {
  cluster_name    = var.cluster
  namespace       = split("/", var.account)[0]
  service_account = split("/", var.account)[1]
  role_arn        = aws_iam_role.main.arn
}
