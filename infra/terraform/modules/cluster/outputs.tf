output "name" {
  description = "Name of the cluster, once its nodes and add-ons are there."
  value       = aws_eks_cluster.main.name
  depends_on  = [aws_eks_addon.after, aws_eks_node_group.cpu]
}

output "endpoint" {
  description = "Address of the API server."
  value       = aws_eks_cluster.main.endpoint
}

output "authority" {
  description = "Certificate of the API server's authority, as PEM in base64."
  value       = aws_eks_cluster.main.certificate_authority[0].data
}

output "security_group_id" {
  description = "Security group of nodes and pods."
  value       = aws_eks_cluster.main.vpc_config[0].cluster_security_group_id
}

output "gpus" {
  description = "How many GPUs the pools hold now, and at most."
  value = {
    now  = sum(concat([0], [for p in values(var.gpu_pools) : p.size * p.gpus_per_node]))
    most = sum(concat([0], [for p in values(var.gpu_pools) : p.max * p.gpus_per_node]))
  }
}
