# Which charts there are, in which versions, and how GPUs are shared.
mock_provider "kubectl" {}
mock_provider "helm" {}

run "without_gpus_their_operator_is_not_there" {
  command = plan

  assert {
    condition     = length(helm_release.gpu_operator) == 0 && length(helm_release.argo_workflows) == 0
    error_message = "Only what is asked for."
  }
  assert {
    condition     = yamldecode(helm_release.kserve.values[0]).kserve.controller.deploymentMode == "Standard"
    error_message = "KServe makes Deployments, not Knative services."
  }
}

run "gpus_by_turns_have_another_name" {
  command = plan
  variables {
    gpus = { pods_per_gpu = 4 }
  }

  assert {
    condition     = yamldecode(yamldecode(helm_release.gpu_operator[0].values[0]).devicePlugin.config.data.shared).sharing.timeSlicing.renameByDefault
    error_message = "A model asks for nvidia.com/gpu.shared, and never gets a part for a whole."
  }
}

run "argo_looks_after_the_jobs_namespace_alone" {
  command = plan
  variables {
    argo = ["mlplatform-jobs"]
  }

  assert {
    condition     = yamldecode(helm_release.argo_workflows[0].values[0]).controller.workflowNamespaces == ["mlplatform-jobs"]
    error_message = "Workflows elsewhere are not its own."
  }
}

run "a_kserve_that_ignores_fields_is_refused" {
  command = plan
  variables {
    versions = { kserve = "v0.20.0" }
  }
  expect_failures = [var.versions]
}

run "a_range_of_versions_is_refused" {
  command = plan
  variables {
    versions = { keda = "~> 2.20" }
  }
  expect_failures = [var.versions]
}
