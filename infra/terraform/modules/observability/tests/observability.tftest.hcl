# The stores and the collector have what the repository's own files say.
mock_provider "kubectl" {}
mock_provider "helm" {}

variables {
  folder      = "../../../../observability"
  environment = "test"
}

run "one_home_for_each_number" {
  command = plan

  assert {
    condition     = yamldecode(helm_release.loki.values[0]).loki.limits_config == yamldecode(file("../../../../observability/loki/loki.yaml")).limits_config
    error_message = "How long logs are kept is Loki's file's to say."
  }
  assert {
    condition     = yamldecode(helm_release.collector.values[0]).alternateConfig.processors == yamldecode(file("../../../../observability/collector/collector.yaml")).processors
    error_message = "Which traces are kept is the collector's file's to say."
  }
  assert {
    condition     = slice(yamldecode(helm_release.logs.values[0]).alternateConfig.receivers.file_log.operators, 1, length(yamldecode(helm_release.logs.values[0]).alternateConfig.receivers.file_log.operators)) == yamldecode(file("../../../../observability/collector/collector.yaml")).receivers.file_log.operators
    error_message = "Lines of pods are read as lines of files are."
  }
  assert {
    condition     = length(yamldecode(helm_release.prometheus.values[0]).prometheus.prometheusSpec.additionalScrapeConfigs) >= 5
    error_message = "What is scraped is Prometheus' file's to say."
  }
  assert {
    condition = [for s in yamldecode(helm_release.prometheus.values[0]).grafana.additionalDataSources : jsonencode(s.jsonData)] == [
      for s in yamldecode(file("../../../../observability/grafana/datasources.yaml")).datasources : jsonencode(s.jsonData)
    ]
    error_message = "How Grafana goes from one store to another is its file's to say."
  }
  assert {
    condition     = !strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).grafana), "127.0.0.1")
    error_message = "Stores are asked in their namespace."
  }
  assert {
    condition     = !can(yamldecode(helm_release.prometheus.values[0]).alertmanager.config)
    error_message = "Without receivers no alert is sent."
  }
}

run "receivers_and_keys_are_files_of_secrets" {
  command = plan
  variables {
    metrics_entry = "mlplatform/metrics"
    alerts        = { pager_url = "https://pager.bank.example/alerts", entry = "mlplatform/alerts" }
  }

  assert {
    condition     = strcontains(helm_release.prometheus.values[0], "/etc/prometheus/secrets/mlplatform-metrics/api.key")
    error_message = "Prometheus reads the key where its operator mounts it."
  }
  assert {
    condition = alltrue([
      strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).alertmanager.config), "/etc/alertmanager/secrets/alertmanager-receivers/pager-token"),
      strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).alertmanager.config), "https://pager.bank.example/alerts"),
      !strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).alertmanager.config), "127.0.0.1"),
    ])
    error_message = "Alertmanager posts to the bank's pager."
  }
  assert {
    condition     = !strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).alertmanager.config), "heartbeat")
    error_message = "Where nobody waits for a heartbeat, none is sent."
  }
}

run "who_waits_for_a_heartbeat_gets_it" {
  command = plan
  variables {
    alerts = { pager_url = "https://pager.bank.example/alerts", heartbeat_url = "https://pager.bank.example/beat", entry = "mlplatform/alerts" }
  }

  assert {
    condition = alltrue([
      strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).alertmanager.config.receivers), "https://pager.bank.example/beat"),
      contains([for r in yamldecode(helm_release.prometheus.values[0]).alertmanager.config.route.routes : r.receiver], "heartbeat"),
      !strcontains(jsonencode(yamldecode(helm_release.prometheus.values[0]).alertmanager.config), "127.0.0.1"),
    ])
    error_message = "The heartbeat goes where it is waited for."
  }
}

run "in_buckets" {
  command = plan
  variables {
    buckets = { logs = "logs.example", traces = "traces.example", region = "eu-central-1" }
  }

  assert {
    condition     = alltrue([for c in yamldecode(helm_release.loki.values[0]).loki.schemaConfig.configs : c.object_store == "s3"])
    error_message = "Logs are in the bucket."
  }
}

run "pages_in_clear_are_refused" {
  command = plan
  variables {
    alerts = { pager_url = "http://pager.bank.example", entry = "x" }
  }
  expect_failures = [var.alerts]
}
