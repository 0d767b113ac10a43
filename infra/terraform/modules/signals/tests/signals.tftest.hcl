# Files of a folder become what Grafana and Prometheus' operator read.
mock_provider "kubectl" {}

variables {
  folder    = "./tests/example"
  namespace = "telemetry"
}

run "every_file_is_taken_and_no_file_of_tests" {
  command = plan

  assert {
    condition     = output.dashboards == tolist(["dashboards/models/fraud_v1.json", "dashboards/overview.json"])
    error_message = "Dashboards are found in folders too."
  }
  assert {
    condition     = output.rules == tolist(["alerts/slo.yaml", "rules/recorded.yaml"])
    error_message = "Rule files and PrometheusRules are taken, promtool's tests are not."
  }
  assert {
    condition     = yamldecode(kubectl_manifest.dashboard["dashboards/models/fraud_v1.json"].yaml_body).metadata.name == "dashboards-models-fraud-v1"
    error_message = "Names are such as Kubernetes takes."
  }
  assert {
    condition     = yamldecode(kubectl_manifest.dashboard["dashboards/overview.json"].yaml_body).metadata.labels.grafana_dashboard == "1"
    error_message = "Grafana's sidecar finds them by a label."
  }
  assert {
    condition = alltrue([
      for r in kubectl_manifest.rules : yamldecode(r.yaml_body).kind == "PrometheusRule" && length(yamldecode(r.yaml_body).spec.groups) == 1
    ])
    error_message = "Both forms become PrometheusRules with their groups."
  }
}

run "links_lead_where_people_find_things" {
  command = plan
  variables {
    folder    = "../../../../observability"
    addresses = { page = "https://page.bank.example" }
  }

  assert {
    condition = alltrue([for d in kubectl_manifest.dashboard : alltrue([
      for v in jsondecode(one(values(yamldecode(d.yaml_body).data))).templating.list :
      v.type != "constant" || v.query == lookup({ page = "https://page.bank.example", mlflow = "http://127.0.0.1:5000", prefect = "http://127.0.0.1:4200" }, v.name, "")
    ])])
    error_message = "A constant that is given is replaced, others stay."
  }
  assert {
    condition = alltrue([for f, d in kubectl_manifest.dashboard :
      jsonencode(jsondecode(one(values(yamldecode(d.yaml_body).data))).panels) == jsonencode(jsondecode(file("../../../../observability/${f}")).panels)
    ])
    error_message = "Panels are those of the file."
  }
}

run "addresses_of_nothing_are_refused" {
  command = plan
  variables {
    addresses = { grafana = "https://grafana.bank.example" }
  }
  expect_failures = [var.addresses]
}

run "a_folder_without_any_is_no_error" {
  command = plan
  variables {
    folder = "./tests"
  }

  assert {
    condition     = length(output.dashboards) + length(output.rules) == 0
    error_message = "Nothing is applied."
  }
}
