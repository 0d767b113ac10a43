# The plan of a whole environment; no account is asked.
mock_provider "kubectl" {}
mock_provider "helm" {}
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { region = "eu-central-1" }
  }
  mock_data "aws_prefix_list" {
    defaults = { cidr_blocks = ["52.219.0.0/20"] }
  }
  mock_resource "aws_eks_cluster" {
    defaults = {
      arn                   = "arn:aws:eks:eu-central-1:123456789012:cluster/x"
      endpoint              = "https://cluster.example"
      certificate_authority = [{ data = "LS0tLS1CRUdJTg==" }]
    }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "db.example"
      master_user_secret = [{ kms_key_id = "key", secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds", secret_status = "active" }]
    }
  }
}

variables {
  account_id  = "123456789012"
  region      = "eu-central-1"
  environment = "test"
  network     = { zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  operators   = ["arn:aws:iam::123456789012:role/platform"]
  images = {
    gateway   = "registry.example/gateway@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    flows     = "registry.example/flows@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    predictor = "registry.example/predictor@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  }
  passwords = {
    postgres         = "not-a-real-password-000001"
    redis            = "not-a-real-password-000002"
    mlflow_postgres  = "not-a-real-password-000003"
    mlflow_token     = "not-a-real-password-000004"
    prefect_postgres = "not-a-real-password-000005"
    prefect_api      = "not-a-real-password-000006"
    prefect_reader   = "not-a-real-password-000016"
    exporter_token   = "not-a-real-password-000007"
    page_token       = "not-a-real-password-000008"
    worker_token     = "not-a-real-password-000009"
    kafka            = "not-a-real-password-000010"
  }
}

run "a_whole_environment" {
  command = plan

  assert {
    condition     = output.gpus == { now = 0, most = 2 }
    error_message = "GPU pools begin empty and are bounded."
  }
  assert {
    condition     = contains(output.objects, "StatefulSet/mlplatform/gateway") && !contains(output.objects, "ExternalSecret/mlplatform/s3")
    error_message = "The platform is there, and has no keys of the bucket."
  }
  assert {
    condition     = output.kafka == null
    error_message = "Kafka is there only where it is asked for."
  }
}

run "with_kafka_a_budget_and_callers_from_outside" {
  command = plan
  variables {
    kafka          = {}
    budget         = { dollars = 1000, emails = ["owner@bank.example"] }
    public_gateway = { host = "scores.bank.example", tls_secret = "scores" }
    raw_domain     = "models.bank.example"
    spark          = true
  }

  assert {
    condition     = contains(output.objects, "NetworkPolicy/mlplatform/spark")
    error_message = "Flow runs may reach the bank's Spark."
  }
  assert {
    condition     = one(aws_budgets_budget.month[*].limit_amount) == "1000"
    error_message = "The owner gets a message about what it costs."
  }
}

run "another_accounts_number_is_refused" {
  command = plan
  variables {
    account_id = "12345"
  }
  expect_failures = [var.account_id]
}

run "images_without_a_digest_are_refused" {
  command = plan
  variables {
    images = { gateway = "registry.example/gateway:1", flows = "registry.example/flows:1", predictor = "registry.example/predictor:1" }
  }
  expect_failures = [var.images]
}
