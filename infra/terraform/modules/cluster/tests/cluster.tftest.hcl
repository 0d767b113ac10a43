# Pools are tainted and bounded; nobody reaches the API server unless it is said.
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_eks_cluster" {
    defaults = { certificate_authority = [{ data = "LS0t" }] }
  }
}

variables {
  name      = "mlplatform-test"
  subnets   = { eu-central-1a = "subnet-a", eu-central-1b = "subnet-b" }
  key_arn   = "arn:aws:kms:eu-central-1:123456789012:key/x"
  operators = ["arn:aws:iam::123456789012:role/platform"]
  pools     = { system = { machines = ["m7i.xlarge"], min = 1, size = 2, max = 3 } }
  gpu_pools = { l4 = { machines = ["g6.xlarge"], gpus_per_node = 1, max = 2, product = "NVIDIA-L4", zones = ["eu-central-1b"] } }
}

run "gpu_nodes_are_tainted_labelled_and_bounded" {
  command = plan

  assert {
    condition     = [for t in aws_eks_node_group.gpu["l4"].taint : "${t.key}=${t.value}:${t.effect}"] == ["nvidia.com/gpu=present:NO_SCHEDULE"]
    error_message = "Only pods that ask for a GPU go there."
  }
  assert {
    condition     = aws_eks_node_group.gpu["l4"].labels["nvidia.com/gpu.product"] == "NVIDIA-L4"
    error_message = "Models find the pool by its product."
  }
  assert {
    condition     = one(aws_eks_node_group.gpu["l4"].scaling_config).max_size == 2
    error_message = "The pool is no larger than its limit."
  }
  assert {
    condition     = aws_eks_node_group.gpu["l4"].subnet_ids == toset(["subnet-b"])
    error_message = "A pool stays in its zones."
  }
  assert {
    condition     = length(aws_eks_node_group.cpu["system"].taint) == 0
    error_message = "Nodes without GPUs take any pod."
  }
}

run "the_api_server_is_private_unless_ranges_are_named" {
  command = plan

  assert {
    condition     = one(aws_eks_cluster.main.vpc_config).endpoint_public_access == false
    error_message = "Without ranges there is no public endpoint."
  }
}

run "a_named_range_and_no_other_reaches_it" {
  command = plan
  variables {
    api_ranges = ["203.0.113.0/24"]
  }

  assert {
    condition     = one(aws_eks_cluster.main.vpc_config).public_access_cidrs == toset(["203.0.113.0/24"])
    error_message = "Only that range is let in."
  }
}

run "more_gpus_than_were_agreed_are_refused" {
  command = plan
  variables {
    most_gpus = 1
  }
  expect_failures = [var.gpu_pools]
}

run "a_pool_that_begins_above_its_bound_is_refused" {
  command = plan
  variables {
    gpu_pools = { l4 = { machines = ["g6.xlarge"], gpus_per_node = 1, size = 3, max = 2, product = "NVIDIA-L4" } }
  }
  expect_failures = [var.gpu_pools]
}

run "the_whole_world_is_no_range" {
  command = plan
  variables {
    api_ranges = ["0.0.0.0/0"]
  }
  expect_failures = [var.api_ranges]
}

run "somebody_must_administer_it" {
  command = plan
  variables {
    operators = []
  }
  expect_failures = [var.operators]
}
