# Pools are as large as `size` says: the platform counts free GPUs before it deploys (docs/decisions/0033), so a pool grows by
# an apply and not behind its back.
locals {
  cpu = { for name, p in var.pools : name => merge(p, {
    ami    = "AL2023_x86_64_STANDARD"
    taints = {}
    labels = p.labels
  }) }
  gpu = { for name, p in var.gpu_pools : name => merge(p, {
    ami    = "AL2023_x86_64_NVIDIA" # brings driver and container toolkit
    taints = { "nvidia.com/gpu" = "present" }
    labels = merge(
      { "nvidia.com/gpu.product" = p.product, "mlplatform/pool" = name },
      { for profile in compact([p.mig_profile]) : "nvidia.com/mig.config" => profile },
    )
  }) }
  disks = merge({ for name, p in local.cpu : name => p.disk_gib }, { for name, p in local.gpu : name => p.disk_gib })
}

resource "aws_launch_template" "nodes" {
  for_each               = local.disks
  name_prefix            = "${var.name}-${each.key}-"
  update_default_version = true

  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_type           = "gp3"
      volume_size           = each.value
      encrypted             = "true"
      kms_key_id            = var.key_arn
      delete_on_termination = "true"
    }
  }
  # Pods get no further than the node's own hop: its role is not theirs.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  monitoring {
    enabled = true
  }
  tag_specifications {
    resource_type = "instance"
    tags          = { Name = "${var.name}-${each.key}" }
  }
}

resource "aws_eks_node_group" "cpu" {
  for_each        = local.cpu
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = [for z in coalesce(each.value.zones, keys(var.subnets)) : var.subnets[z]]
  ami_type        = each.value.ami
  capacity_type   = each.value.spot ? "SPOT" : "ON_DEMAND"
  instance_types  = each.value.machines
  labels          = each.value.labels

  launch_template {
    id      = aws_launch_template.nodes[each.key].id
    version = aws_launch_template.nodes[each.key].latest_version
  }
  scaling_config {
    min_size     = each.value.min
    desired_size = each.value.size
    max_size     = each.value.max
  }
  update_config {
    max_unavailable = 1
  }
  node_repair_config {
    enabled = true
  }
  depends_on = [aws_iam_role_policy_attachment.nodes, aws_eks_addon.first]
}

resource "aws_eks_node_group" "gpu" {
  for_each        = local.gpu
  cluster_name    = aws_eks_cluster.main.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.nodes.arn
  subnet_ids      = [for z in coalesce(each.value.zones, keys(var.subnets)) : var.subnets[z]]
  ami_type        = each.value.ami
  capacity_type   = each.value.spot ? "SPOT" : "ON_DEMAND"
  instance_types  = each.value.machines
  labels          = each.value.labels

  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.key
      value  = taint.value
      effect = "NO_SCHEDULE"
    }
  }
  launch_template {
    id      = aws_launch_template.nodes[each.key].id
    version = aws_launch_template.nodes[each.key].latest_version
  }
  scaling_config {
    min_size     = each.value.min
    desired_size = each.value.size
    max_size     = each.value.max
  }
  # A spare GPU is seldom to be had: nodes go one by one, the old one first.
  update_config {
    max_unavailable = 1
  }
  node_repair_config {
    enabled = true
  }
  depends_on = [aws_iam_role_policy_attachment.nodes, aws_eks_addon.first]
}
