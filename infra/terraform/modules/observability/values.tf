# What the charts are told. Names and tracing between the three stores are by trace id, which logs carry as `trace_id`.
locals {
  prometheus_values = {
    fullnameOverride = "prometheus"
    prometheus = { prometheusSpec = {
      retention                               = "${var.retention_days.metrics}d"
      enableRemoteWriteReceiver               = true
      enableFeatures                          = ["exemplar-storage"]
      ruleSelectorNilUsesHelmValues           = false
      serviceMonitorSelectorNilUsesHelmValues = false
      podMonitorSelectorNilUsesHelmValues     = false
      storageSpec                             = { volumeClaimTemplate = { spec = { accessModes = ["ReadWriteOnce"], resources = { requests = { storage = var.sizes.prometheus } } } } }
    } }
    alertmanager = { alertmanagerSpec = { alertmanagerConfigMatcherStrategy = { type = "None" } } }
    grafana = {
      admin       = { existingSecret = "grafana-admin", userKey = "admin-user", passwordKey = "admin-password" }
      persistence = { enabled = true, size = var.sizes.grafana }
      sidecar     = { dashboards = { enabled = true, label = "grafana_dashboard", labelValue = "1", searchNamespace = local.namespace } }
      "grafana.ini" = {
        analytics = { reporting_enabled = false, check_for_updates = false }
        users     = { allow_sign_up = false }
      }
      additionalDataSources = local.data_sources
    }
  }

  data_sources = [
    {
      name     = "Loki"
      uid      = "loki"
      type     = "loki"
      url      = local.loki
      jsonData = { derivedFields = [{ name = "trace", matcherType = "label", matcherRegex = "trace_id", datasourceUid = "tempo", url = "$${__value.raw}" }] }
    },
    {
      name = "Tempo"
      uid  = "tempo"
      type = "tempo"
      url  = local.tempo
      jsonData = {
        tracesToLogsV2  = { datasourceUid = "loki", filterByTraceID = true }
        tracesToMetrics = { datasourceUid = "prometheus" }
        serviceMap      = { datasourceUid = "prometheus" }
      }
    },
  ]

  loki_storage = merge(
    { type = var.buckets == null ? "filesystem" : "s3" },
    { for b in var.buckets[*] : "bucketNames" => { chunks = b.logs, ruler = b.logs, admin = b.logs } },
    { for b in var.buckets[*] : "s3" => { region = b.region } },
  )
  loki_values = {
    deploymentMode = "Monolithic"
    loki = {
      auth_enabled = false # the only way in is from the collector and Grafana, within the namespace
      commonConfig = { replication_factor = 1 }
      storage      = local.loki_storage
      schemaConfig = { configs = [{
        from         = "2026-01-01"
        store        = "tsdb"
        object_store = var.buckets == null ? "filesystem" : "s3"
        schema       = "v13"
        index        = { prefix = "index_", period = "24h" }
      }] }
      limits_config = { allow_structured_metadata = true, retention_period = "${var.retention_days.logs * 24}h" }
      compactor     = { retention_enabled = true, delete_request_store = var.buckets == null ? "filesystem" : "s3" }
      analytics     = { reporting_enabled = false }
    }
    singleBinary   = { replicas = 1, persistence = { enabled = true, size = var.sizes.loki } }
    serviceAccount = { name = "loki" }
    read           = { replicas = 0 }
    write          = { replicas = 0 }
    backend        = { replicas = 0 }
    gateway        = { enabled = false }
    chunksCache    = { enabled = false }
    resultsCache   = { enabled = false }
    lokiCanary     = { enabled = false }
    test           = { enabled = false }
  }

  tempo_storage = merge(
    { backend = var.buckets == null ? "local" : "s3" },
    { for b in var.buckets[*] : "s3" => { bucket = b.traces, region = b.region, endpoint = "s3.${b.region}.amazonaws.com" } },
  )
  tempo_values = {
    tempo = {
      reportingEnabled = false
      retention        = "${var.retention_days.traces * 24}h"
      metricsGenerator = { enabled = true, remoteWriteUrl = "${local.prometheus}/api/v1/write" }
      # Enabled above is the generator; which metrics it makes is said for each tenant, here for the only one.
      overrides = { defaults = { metrics_generator = { processors = ["service-graphs", "span-metrics"] } } }
      storage   = { trace = merge(local.tempo_storage, { wal = { path = "/var/tempo/wal" }, local = { path = "/var/tempo/traces" } }) }
    }
    serviceAccount = { name = "tempo" }
    persistence    = { enabled = true, size = var.sizes.tempo }
  }

  collector_values = {
    mode             = "deployment"
    fullnameOverride = "collector"
    image            = { repository = "otel/opentelemetry-collector-contrib" }
    ports            = { for name in ["jaeger-compact", "jaeger-thrift", "jaeger-grpc", "zipkin"] : name => { enabled = false } }
    config = {
      receivers = { jaeger = null, zipkin = null, prometheus = null }
      exporters = {
        "otlp/tempo"          = { endpoint = "tempo.${local.namespace}:4317", tls = { insecure = true } }
        "otlphttp/loki"       = { endpoint = "${local.loki}/otlp" }
        prometheusremotewrite = { endpoint = "${local.prometheus}/api/v1/write" }
      }
      service = { pipelines = {
        traces  = { receivers = ["otlp"], processors = ["memory_limiter", "batch"], exporters = ["otlp/tempo"] }
        logs    = { receivers = ["otlp"], processors = ["memory_limiter", "batch"], exporters = ["otlphttp/loki"] }
        metrics = { receivers = ["otlp"], processors = ["memory_limiter", "batch"], exporters = ["prometheusremotewrite"] }
      } }
    }
  }
}
