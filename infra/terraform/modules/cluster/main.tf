# Kubernetes by EKS. The control plane's endpoint is private; pods get rights by Pod Identity, never by keys.
resource "aws_eks_cluster" "main" {
  name                          = var.name
  role_arn                      = aws_iam_role.control_plane.arn
  version                       = var.kubernetes
  bootstrap_self_managed_addons = false
  deletion_protection           = var.protect
  enabled_cluster_log_types     = ["api", "audit", "authenticator", "controllerManager", "scheduler"]

  access_config {
    authentication_mode                         = "API"
    bootstrap_cluster_creator_admin_permissions = false
  }
  encryption_config {
    resources = ["secrets"]
    provider {
      key_arn = var.key_arn
    }
  }
  upgrade_policy {
    support_type = "STANDARD" # an old version is upgraded instead of paid for
  }
  vpc_config {
    subnet_ids              = values(var.subnets)
    endpoint_private_access = true
    endpoint_public_access  = length(var.api_ranges) > 0
    public_access_cidrs     = length(var.api_ranges) > 0 ? var.api_ranges : null
  }

  depends_on = [aws_iam_role_policy_attachment.control_plane, aws_cloudwatch_log_group.control_plane]
}

# Made here and not by EKS, so that it has a key and an end.
resource "aws_cloudwatch_log_group" "control_plane" {
  name              = "/aws/eks/${var.name}/cluster"
  retention_in_days = var.log_days
  kms_key_id        = var.key_arn
}

resource "aws_eks_access_entry" "operator" {
  for_each      = var.operators
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = each.value
}

resource "aws_eks_access_policy_association" "operator" {
  for_each      = var.operators
  cluster_name  = aws_eks_cluster.main.name
  principal_arn = aws_eks_access_entry.operator[each.value].principal_arn
  policy_arn    = "arn:${data.aws_partition.here.partition}:eks::aws:cluster-access-policy/AmazonEKSClusterAdminPolicy"
  access_scope {
    type = "cluster"
  }
}

data "aws_partition" "here" {}

locals {
  # Before any node: without a network plug-in none gets ready.
  addons_first = ["vpc-cni", "kube-proxy", "eks-pod-identity-agent"]
  addons_after = ["coredns", "aws-ebs-csi-driver", "aws-efs-csi-driver", "metrics-server"]
  addon_values = {
    # The base's network policies are enforced by the network plug-in itself.
    "vpc-cni" = jsonencode({ enableNetworkPolicy = "true" })
  }
}

resource "aws_eks_addon" "first" {
  for_each             = toset(local.addons_first)
  cluster_name         = aws_eks_cluster.main.name
  addon_name           = each.value
  addon_version        = lookup(var.addon_versions, each.value, null)
  configuration_values = lookup(local.addon_values, each.value, null)
}

resource "aws_eks_addon" "after" {
  for_each      = toset(local.addons_after)
  cluster_name  = aws_eks_cluster.main.name
  addon_name    = each.value
  addon_version = lookup(var.addon_versions, each.value, null)
  depends_on    = [aws_eks_node_group.cpu]

  dynamic "pod_identity_association" {
    for_each = contains(keys(local.drivers), each.value) ? [local.drivers[each.value]] : []
    content {
      role_arn        = aws_iam_role.driver[each.value].arn
      service_account = pod_identity_association.value.account
    }
  }
}
