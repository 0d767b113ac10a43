mock_provider "aws" {
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

variables {
  cluster = "mlplatform-test"
  account = "mlplatform/mlflow"
  rights  = [{ actions = ["s3:GetObject"], resources = ["arn:aws:s3:::bucket/*"] }]
}

run "one_account_has_it" {
  command = plan

  assert {
    condition     = aws_eks_pod_identity_association.main.namespace == "mlplatform" && aws_eks_pod_identity_association.main.service_account == "mlflow"
    error_message = "The rights are that account's."
  }
}

run "all_actions_are_refused" {
  command = plan
  variables {
    rights = [{ actions = ["s3:*"], resources = ["arn:aws:s3:::bucket"] }]
  }
  expect_failures = [var.rights]
}

run "everything_is_refused" {
  command = plan
  variables {
    rights = [{ actions = ["s3:GetObject"], resources = ["*"] }]
  }
  expect_failures = [var.rights]
}
