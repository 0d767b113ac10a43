output "role_arn" {
  description = "The role, once pods of the account get it."
  value       = aws_iam_role.main.arn
  depends_on  = [aws_eks_pod_identity_association.main, aws_iam_role_policy.main]
}
