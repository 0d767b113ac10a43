# Values of the charts. Names and tracing between the three stores are by trace id, which logs carry as `trace_id`.
locals {
  # Addresses and secrets of the files are those of one machine; here they are this namespace's.
  config = { for f in ["collector/collector", "loki/loki", "tempo/tempo", "prometheus/cluster", "alertmanager/alertmanager"] :
  basename(dirname(f)) => file("${var.folder}/${f}.yaml") }
  loki_file = yamldecode(local.config["loki"])
  scraped   = yamldecode(replace(local.config["prometheus"], "/etc/prometheus/secrets", "/etc/prometheus/secrets/mlplatform-metrics")).scrape_configs
  alertmanager_file = yamldecode(replace(replace(replace(
    local.config["alertmanager"],
    "/etc/alertmanager/secrets", "/etc/alertmanager/secrets/alertmanager-receivers"),
    "http://127.0.0.1:9099/alerts", try(var.alerts.pager_url, "")),
  "http://127.0.0.1:9099/heartbeat", local.heartbeat_url))
  heartbeat_url = try(coalesce(var.alerts.heartbeat_url), "")
  # Where nobody waits for a heartbeat, none is sent: Watchdog then goes where the chart's other silent alerts go.
  alertmanager = merge(local.alertmanager_file, {
    route     = merge(local.alertmanager_file.route, { routes = [for r in local.alertmanager_file.route.routes : r if local.heartbeat_url != "" || r.receiver != "heartbeat"] })
    receivers = [for r in local.alertmanager_file.receivers : r if local.heartbeat_url != "" || r.name != "heartbeat"]
  })

  prometheus_values = {
    fullnameOverride = "prometheus"
    prometheus = { prometheusSpec = {
      retention                               = "${var.retention_days}d"
      enableRemoteWriteReceiver               = true
      enableFeatures                          = ["exemplar-storage"]
      ruleSelectorNilUsesHelmValues           = false
      serviceMonitorSelectorNilUsesHelmValues = false
      podMonitorSelectorNilUsesHelmValues     = false
      secrets                                 = [for e in var.metrics_entry[*] : "mlplatform-metrics"]
      additionalScrapeConfigs                 = local.scraped
      storageSpec                             = { volumeClaimTemplate = { spec = { accessModes = ["ReadWriteOnce"], resources = { requests = { storage = var.sizes.prometheus } } } } }
    } }
    alertmanager = merge(
      { alertmanagerSpec = { secrets = [for a in var.alerts[*] : "alertmanager-receivers"] } },
      { for a in var.alerts[*] : "config" => local.alertmanager },
    )
    grafana = {
      admin       = { existingSecret = "grafana-admin", userKey = "admin-user", passwordKey = "admin-password" }
      persistence = { enabled = true, size = var.sizes.grafana }
      sidecar = {
        dashboards  = { enabled = true, label = "grafana_dashboard", labelValue = "1", searchNamespace = local.namespace }
        datasources = { defaultDatasourceEnabled = false } # the file has Prometheus too, with the way from a point to its trace
      }
      "grafana.ini" = {
        analytics = { reporting_enabled = false, check_for_updates = false }
        users     = { allow_sign_up = false }
      }
      additionalDataSources = local.data_sources
    }
  }

  # How Grafana goes from one store to another is the file's to say, where they are is this module's.
  stores       = { prometheus = local.prometheus, loki = local.loki, tempo = local.tempo }
  data_sources = [for s in yamldecode(file("${var.folder}/grafana/datasources.yaml")).datasources : merge(s, { url = local.stores[s.uid] })]

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
      schemaConfig = { configs = [
        for c in local.loki_file.schema_config.configs : merge(c, { object_store = var.buckets == null ? c.object_store : "s3" })
      ] }
      # How long lines are kept follows from the label that the collector sets.
      limits_config = local.loki_file.limits_config
      compactor     = { retention_enabled = local.loki_file.compactor.retention_enabled, delete_request_store = var.buckets == null ? "filesystem" : "s3" }
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
      retention        = yamldecode(local.config["tempo"]).compactor.compaction.block_retention
      metricsGenerator = { enabled = true, remoteWriteUrl = "${local.prometheus}/api/v1/write" }
      # Enabled above is the generator; which metrics it makes is said for each tenant, here for the only one.
      overrides = { defaults = { metrics_generator = { processors = ["service-graphs", "span-metrics"] } } }
      storage   = { trace = merge(local.tempo_storage, { wal = { path = "/var/tempo/wal" }, local = { path = "/var/tempo/traces" } }) }
    }
    serviceAccount = { name = "tempo" }
    persistence    = { enabled = true, size = var.sizes.tempo }
  }

  # The collector's own file; what it takes from its environment is said below, and probes ask for it at the pod's address.
  collector_file = yamldecode(local.config["collector"])
  collector_values = {
    mode             = "deployment"
    fullnameOverride = "collector"
    image            = { repository = "otel/opentelemetry-collector-contrib" }
    ports            = { for name in ["jaeger-compact", "jaeger-thrift", "jaeger-grpc", "zipkin"] : name => { enabled = false } }
    alternateConfig = merge(local.collector_file, {
      extensions = merge(local.collector_file.extensions, { health_check = { endpoint = "$${env:MY_POD_IP}:13133" } })
    })
    extraEnvs = [for name, value in {
      OTLP_HOST    = "0.0.0.0"
      TEMPO        = "tempo.${local.namespace}:4317"
      LOKI         = local.loki
      PROMETHEUS   = local.prometheus
      STATE_FOLDER = "/var/lib/otelcol"
      ENVIRONMENT  = var.environment
    } : { name = name, value = value }]
    extraVolumes       = [{ name = "state", emptyDir = {} }]
    extraVolumeMounts  = [{ name = "state", mountPath = "/var/lib/otelcol" }]
    podSecurityContext = { fsGroup = 10001 }
  }

  # A pod's lines are wrapped by the container runtime; within, they are the lines that the collector's file reads.
  logs_values = {
    mode             = "daemonset"
    fullnameOverride = "logs"
    image            = { repository = "otel/opentelemetry-collector-contrib" }
    ports            = { for name in ["otlp", "otlp-http", "jaeger-compact", "jaeger-thrift", "jaeger-grpc", "zipkin"] : name => { enabled = false } }
    alternateConfig = {
      receivers = { file_log = merge(local.collector_file.receivers.file_log, {
        include           = ["/var/log/pods/mlplatform*_*/*/*.log"]
        include_file_path = true
        operators         = concat([{ type = "container" }], local.collector_file.receivers.file_log.operators)
      }) }
      processors = { for name in ["memory_limiter", "batch"] : name => local.collector_file.processors[name] }
      exporters  = { otlp_grpc = { endpoint = "collector.${local.namespace}:4317", tls = { insecure = true } } }
      extensions = {
        health_check = { endpoint = "$${env:MY_POD_IP}:13133" }
        file_storage = local.collector_file.extensions.file_storage
      }
      service = {
        extensions = ["health_check", "file_storage"]
        pipelines  = { logs = { receivers = ["file_log"], processors = ["memory_limiter", "batch"], exporters = ["otlp_grpc"] } }
      }
    }
    extraEnvs = [{ name = "STATE_FOLDER", value = "/var/lib/otelcol" }]
    extraVolumes = [
      { name = "state", emptyDir = {} },
      { name = "pods", hostPath = { path = "/var/log/pods" } },
    ]
    extraVolumeMounts = [
      { name = "state", mountPath = "/var/lib/otelcol" },
      { name = "pods", mountPath = "/var/log/pods", readOnly = true },
    ]
    # The kubelet's files are root's.
    securityContext = { runAsUser = 0, runAsGroup = 0, readOnlyRootFilesystem = true, allowPrivilegeEscalation = false, capabilities = { drop = ["ALL"], add = ["DAC_READ_SEARCH"] } }
    tolerations     = [{ operator = "Exists" }] # GPU nodes too
  }
}
