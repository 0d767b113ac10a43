# The plan of a cluster that is there already; no cluster is asked.
mock_provider "kubectl" {}
mock_provider "helm" {}

variables {
  context = "kind-mlplatform"
}

run "everything_on_one_cluster" {
  command = plan

  assert {
    condition     = contains(output.objects, "StatefulSet/mlplatform/gateway") && contains(output.objects, "Deployment/mlplatform/mlflow")
    error_message = "The platform is there."
  }
  assert {
    condition     = contains(output.objects, "ExternalSecret/mlplatform/prefect")
    error_message = "Its Secrets come from the store."
  }
  assert {
    condition     = contains(output.objects, "WorkflowTemplate/mlplatform-jobs/fraud-score")
    error_message = "Heavy jobs have their templates."
  }
  assert {
    condition     = toset(module.signals[0].rules) == toset(fileset("../../../observability", "alerts/*.yaml"))
    error_message = "Every file of alerts is applied."
  }
  assert {
    condition     = output.kafka == null
    error_message = "Kafka is there only where it is asked for."
  }
}

run "without_telemetry_nothing_of_it_is_named" {
  command = plan
  variables {
    observability = false
  }

  assert {
    condition     = length(module.observability) == 0 && length(module.signals) == 0
    error_message = "No telemetry is planned."
  }
  assert {
    condition     = output.grafana == null
    error_message = "No way to Grafana is named."
  }
}

run "training_sets_are_joined_by_spark" {
  command = plan
  variables {
    spark = true
  }

  assert {
    condition     = contains(output.objects, "NetworkPolicy/mlplatform/spark")
    error_message = "Flow runs may reach the bank's Spark."
  }
}

run "a_context_must_be_named" {
  command = plan
  variables {
    context = ""
  }
  expect_failures = [var.context]
}
