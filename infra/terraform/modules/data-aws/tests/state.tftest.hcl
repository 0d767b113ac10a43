# Encrypted, protected, and without a password in plan or state.
mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_resource "aws_db_instance" {
    defaults = {
      address            = "db.example"
      master_user_secret = [{ kms_key_id = "key", secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:rds", secret_status = "active" }]
    }
  }
}

variables {
  name            = "mlplatform-test"
  vpc_id          = "vpc-1"
  subnets         = { eu-central-1a = "subnet-a", eu-central-1b = "subnet-b" }
  client_group_id = "sg-1"
  key_arn         = "arn:aws:kms:eu-central-1:123456789012:key/x"
  secrets_prefix  = "mlplatform/test/"
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
  }
}

run "protected_by_default" {
  command = apply

  assert {
    condition     = aws_db_instance.main.deletion_protection && !aws_db_instance.main.skip_final_snapshot && aws_db_instance.main.manage_master_user_password
    error_message = "The database is not deleted by accident, and its administrator's password is not ours."
  }
  assert {
    condition     = alltrue([for b in aws_s3_bucket.main : !b.force_destroy])
    error_message = "Buckets with objects in them stay."
  }
  assert {
    condition     = alltrue([for v in aws_secretsmanager_secret_version.main : v.secret_string == null])
    error_message = "No value of a secret is in the state."
  }
  assert {
    condition     = !strcontains(jsonencode(output.addresses), "not-a-real-password")
    error_message = "No address has a password."
  }
  assert {
    condition     = startswith(output.addresses.redis, "rediss://") && endswith(output.addresses.postgres, "?sslmode=verify-full")
    error_message = "Everything is spoken to by TLS."
  }
  assert {
    condition     = toset(keys(aws_efs_access_point.bundles)) == toset(["platform", "models"]) && aws_efs_access_point.bundles["platform"].root_directory == aws_efs_access_point.bundles["models"].root_directory
    error_message = "One folder has two volumes, so that one node can mount both."
  }
  assert {
    condition     = toset(keys(aws_security_group.state)) == toset(["files", "postgres", "redis"])
    error_message = "Without Kafka no port of it is open."
  }
}

run "kafka_is_spoken_to_by_tls_as_a_user" {
  command = apply
  variables {
    kafka = {}
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

  assert {
    condition     = startswith(output.addresses.kafka, "kafka+ssl://mlplatform@") && !strcontains(output.addresses.kafka, "not-a-real-password")
    error_message = "The platform's setting names TLS and its user, and no password."
  }
  assert {
    condition     = aws_msk_cluster.main[0].encryption_info[0].encryption_in_transit[0].client_broker == "TLS" && aws_msk_cluster.main[0].client_authentication[0].sasl[0].scram && !aws_msk_cluster.main[0].client_authentication[0].unauthenticated
    error_message = "Brokers take users alone, by TLS alone."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.pods["kafka"].from_port == 9096
    error_message = "The port that is open is the one of SCRAM."
  }
  assert {
    condition     = startswith(aws_secretsmanager_secret.kafka[0].name, "AmazonMSK_") && aws_secretsmanager_secret_version.kafka[0].secret_string == null
    error_message = "MSK takes entries of that name alone; their value is in no state."
  }
}

run "kafka_without_a_password_is_refused" {
  command = plan
  variables {
    kafka = {}
  }
  expect_failures = [var.passwords]
}

run "a_short_password_is_refused" {
  command = plan
  variables {
    passwords = {
      postgres = "short", redis = "short", mlflow_postgres = "short", mlflow_token = "short", prefect_postgres = "short", prefect_api = "short", prefect_reader = "short", exporter_token = "short", page_token = "short", worker_token = "short"
    }
  }
  expect_failures = [var.passwords]
}

run "one_node_of_redis_is_refused" {
  command = plan
  variables {
    redis = { nodes = 1 }
  }
  expect_failures = [var.redis]
}
