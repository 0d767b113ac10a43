output "vpc_id" {
  description = "The network."
  value       = aws_vpc.main.id
}

output "private_subnets" {
  description = "Zone to the subnet of nodes and pods."
  value       = { for z, s in aws_subnet.private : z => s.id }
}

output "data_subnets" {
  description = "Zone to the subnet of databases, brokers and file systems."
  value       = { for z, s in aws_subnet.data : z => s.id }
}

output "private_ranges" {
  description = "Address ranges of nodes and pods."
  value       = [for s in aws_subnet.private : s.cidr_block]
}

output "state_ranges" {
  description = "Address ranges that the platform's state answers from: the data subnets, and S3's in this region."
  value       = concat([for s in aws_subnet.data : s.cidr_block], data.aws_prefix_list.s3.cidr_blocks)
}
