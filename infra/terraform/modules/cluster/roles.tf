locals {
  managed = "arn:${data.aws_partition.here.partition}:iam::aws:policy"
  drivers = {
    "aws-ebs-csi-driver" = { account = "ebs-csi-controller-sa", policy = "service-role/AmazonEBSCSIDriverPolicy" }
    "aws-efs-csi-driver" = { account = "efs-csi-controller-sa", policy = "service-role/AmazonEFSCSIDriverPolicy" }
  }
  node_policies = ["AmazonEKSWorkerNodePolicy", "AmazonEKS_CNI_Policy", "AmazonEC2ContainerRegistryPullOnly"]
}

data "aws_iam_policy_document" "assumed" {
  for_each = toset(["eks", "ec2"])
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["${each.value}.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "control_plane" {
  name               = "${var.name}-control-plane"
  assume_role_policy = data.aws_iam_policy_document.assumed["eks"].json
}

resource "aws_iam_role_policy_attachment" "control_plane" {
  role       = aws_iam_role.control_plane.name
  policy_arn = "${local.managed}/AmazonEKSClusterPolicy"
}

resource "aws_iam_role" "nodes" {
  name               = "${var.name}-nodes"
  assume_role_policy = data.aws_iam_policy_document.assumed["ec2"].json
}

resource "aws_iam_role_policy_attachment" "nodes" {
  for_each   = toset(local.node_policies)
  role       = aws_iam_role.nodes.name
  policy_arn = "${local.managed}/${each.value}"
}

resource "aws_iam_role" "driver" {
  for_each           = local.drivers
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pods.json
}

resource "aws_iam_role_policy_attachment" "driver" {
  for_each   = local.drivers
  role       = aws_iam_role.driver[each.key].name
  policy_arn = "${local.managed}/${each.value.policy}"
}
