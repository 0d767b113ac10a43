# Ranges do not overlap, and what holds state has no way out.
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_prefix_list" {
    defaults = { cidr_blocks = ["52.219.0.0/20"] }
  }
}

variables {
  name    = "mlplatform-test"
  zones   = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  key_arn = "arn:aws:kms:eu-central-1:123456789012:key/x"
}

run "three_zones" {
  command = plan

  assert {
    condition     = [for s in aws_subnet.private : s.cidr_block] == ["10.40.0.0/18", "10.40.64.0/18", "10.40.128.0/18"]
    error_message = "Pods have a quarter of the range in each zone."
  }
  assert {
    condition     = [for s in aws_subnet.data : s.cidr_block] == ["10.40.208.0/22", "10.40.212.0/22", "10.40.216.0/22"]
    error_message = "State has ranges of its own."
  }
  assert {
    condition     = [for s in aws_subnet.public : s.cidr_block] == ["10.40.192.0/22", "10.40.196.0/22", "10.40.200.0/22"]
    error_message = "Load balancers have ranges of their own."
  }
  assert {
    condition     = length(aws_nat_gateway.egress) == 3
    error_message = "Each zone has a way out of its own."
  }
  assert {
    condition     = contains(output.state_ranges, "52.219.0.0/20")
    error_message = "S3 is among what network policies let through."
  }
}

run "one_way_out_for_all_zones" {
  command = plan
  variables {
    gateway_per_zone = false
  }

  assert {
    condition     = length(aws_nat_gateway.egress) == 1 && length(aws_route.private) == 3
    error_message = "All zones go out by the first."
  }
}

run "one_zone_is_refused" {
  command = plan
  variables {
    zones = ["eu-central-1a"]
  }
  expect_failures = [var.zones]
}

run "a_range_too_small_for_pods_is_refused" {
  command = plan
  variables {
    range = "10.40.0.0/20"
  }
  expect_failures = [var.range]
}
