# Kustomize's folders as they are written, with an installation's texts in them.
mock_provider "kubectl" {}

run "documents_lists_and_generated_names" {
  command = plan
  variables {
    folders      = ["./tests/example"]
    replacements = { "example/app:1.0" = "registry.example/app:1.0" }
    patches      = { "ConfigMap/here/settings" = { data = { LEVEL = "high" } } }
  }

  assert {
    condition     = [for o in output.objects : o if !startswith(o, "ConfigMap/here/made-")] == ["ConfigMap/here/settings", "Deployment/here/app", "Namespace//here"]
    error_message = "Comments alone are no object, and files that are not listed are not read."
  }
  assert {
    condition     = yamldecode(output.documents["ConfigMap/here/settings"]).data == { LEVEL = "high", KEPT = "yes" }
    error_message = "A patch is merged into what stands there."
  }
  assert {
    condition     = yamldecode(output.documents["Deployment/here/app"]).spec.template.spec.containers[0].image == "registry.example/app:1.0"
    error_message = "Texts are replaced."
  }
  assert {
    condition = contains(
      output.objects,
      "ConfigMap/here/${yamldecode(output.documents["Deployment/here/app"]).spec.template.spec.volumes[0].configMap.name}",
    )
    error_message = "What mounts a generated ConfigMap names it as it is named."
  }
}

run "single_files_get_the_namespace_that_they_lack" {
  command = plan
  variables {
    folders   = []
    files     = ["./tests/example/loose.yaml"]
    namespace = "elsewhere"
  }

  assert {
    condition     = output.objects == tolist(["ClusterRole//wide", "ServiceAccount/elsewhere/worker"])
    error_message = "Objects of the whole cluster have none."
  }
  assert {
    condition     = yamldecode(output.documents["ServiceAccount/elsewhere/worker"]).metadata.namespace == "elsewhere"
    error_message = "The document has it too."
  }
}

run "a_text_that_stands_nowhere_is_refused" {
  command = plan
  variables {
    folders      = ["./tests/example"]
    replacements = { "example/app:2.0" = "registry.example/app:2.0" }
  }
  expect_failures = [kubectl_manifest.rest]
}

run "a_patch_of_nothing_is_refused" {
  command = plan
  variables {
    folders = ["./tests/example"]
    patches = { "ConfigMap/here/misspelt" = { data = {} } }
  }
  expect_failures = [kubectl_manifest.rest]
}

run "texts_within_each_other_are_refused" {
  command = plan
  variables {
    folders      = ["./tests/example"]
    replacements = { "example/app" = "a", "example/app:1.0" = "b" }
  }
  expect_failures = [var.replacements]
}
