mock_provider "kubectl" {}
mock_provider "helm" {}

run "secrets_of_a_namespace" {
  command = plan
  variables {
    store = { namespace = "mlplatform-state" }
  }

  assert {
    condition     = keys(yamldecode(kubectl_manifest.store.yaml_body).spec.provider) == ["kubernetes"]
    error_message = "The store reads this cluster."
  }
  assert {
    condition     = toset(keys(kubectl_manifest.reads)) == toset(["Role", "RoleBinding"])
    error_message = "It may read that namespace, and no other."
  }
}

run "secrets_manager" {
  command = plan
  variables {
    store = { region = "eu-central-1" }
  }

  assert {
    condition     = yamldecode(kubectl_manifest.store.yaml_body).spec.provider == { aws = { service = "SecretsManager", region = "eu-central-1" } }
    error_message = "The store reads Secrets Manager, as its own pod."
  }
  assert {
    condition     = length(kubectl_manifest.reads) == 0
    error_message = "It needs no rights in the cluster."
  }
}

run "both_are_refused" {
  command = plan
  variables {
    store = { namespace = "a", region = "eu-central-1" }
  }
  expect_failures = [var.store]
}
