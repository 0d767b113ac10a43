output "cluster" {
  description = "Name of the cluster: `aws eks update-kubeconfig --name …` lets you in."
  value       = module.cluster.name
}

output "gpus" {
  description = "How many GPUs the pools hold now, and at most."
  value       = module.cluster.gpus
}

output "buckets" {
  description = "Purpose to a bucket's name."
  value       = { for purpose, b in module.state.buckets : purpose => b.name }
}

output "kafka" {
  description = "Brokers of Kafka and their user, as the platform's setting has them, or null."
  value       = module.state.addresses.kafka
}

output "objects" {
  description = "What was applied of this repository's manifests."
  value       = module.platform.objects
}

output "databases_job" {
  description = "Job in the namespace mlplatform that makes roles and databases."
  value       = module.databases.job
}
