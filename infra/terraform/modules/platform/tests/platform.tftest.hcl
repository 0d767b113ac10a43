# What the platform module makes of this repository's manifests; no cluster is asked.
mock_provider "kubectl" {}

variables {
  repository = "../../../.."
  images = {
    gateway   = "registry.example/gateway:1.2.3"
    flows     = "registry.example/flows@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    predictor = "registry.example/predictor:1.2.3"
  }
  addresses = {
    postgres         = "postgresql://mlplatform@db.example:5432/mlplatform"
    redis            = "rediss://mlplatform@cache.example:6379/0"
    mlflow_postgres  = "postgresql://mlflow@db.example:5432/mlflow"
    mlflow_artifacts = "s3://artifacts.example/mlflow"
    otlp_endpoint    = "http://collector.telemetry:4318"
  }
  bundles = {
    platform = { hostPath = { path = "/bundles" } }
    models   = { hostPath = { path = "/bundles" } }
  }
}

run "images_and_addresses_are_the_installations" {
  command = plan

  assert {
    condition     = strcontains(output.documents["StatefulSet/mlplatform/gateway"], "registry.example/gateway:1.2.3")
    error_message = "The gateway has the image that was given."
  }
  assert {
    condition     = length(regexall("mlplatform/(gateway|flows|predictor):[0-9]", join("", values(output.documents)))) == 0
    error_message = "No object has an image without a registry."
  }
  assert {
    condition     = yamldecode(output.documents["ConfigMap/mlplatform/platform"]).data.MLPLATFORM_POSTGRES == var.addresses.postgres
    error_message = "Settings name the installation's database."
  }
  assert {
    condition     = alltrue([for n in ["", "_PASSWORD_FILE"] : yamldecode(output.documents["ConfigMap/mlplatform/platform"]).data["MLPLATFORM_KAFKA${n}"] == ""])
    error_message = "Where no brokers are given, none of the manifests' is left: topics are on the gateway's volume."
  }
  assert {
    condition     = yamldecode(output.documents["ConfigMap/mlplatform/platform"]).data.MLPLATFORM_DURABILITY == "disk"
    error_message = "Settings that are not an installation's stay what the manifests say."
  }
  assert {
    condition     = strcontains(output.documents["Deployment/mlplatform/mlflow"], "s3://artifacts.example/mlflow")
    error_message = "MLflow writes to the installation's bucket."
  }
}

run "people_sign_in_at_the_banks_provider" {
  command = plan

  variables {
    sign_in = { issuer = "https://login.bank.example", client_id = "ml", page = "https://ml.bank.example", name_claim = "email" }
  }

  assert {
    condition = alltrue([for name, value in {
      PAGE_URL           = "https://ml.bank.example"
      SIGN_IN_ISSUER     = "https://login.bank.example"
      SIGN_IN_CLIENT_ID  = "ml"
      SIGN_IN_NAME_CLAIM = "email"
    } : yamldecode(output.documents["ConfigMap/mlplatform/platform"]).data["MLPLATFORM_${name}"] == value])
    error_message = "Settings name the provider and where people open the page."
  }
  assert {
    condition     = strcontains(output.documents["Deployment/mlplatform/page"], "\"value\": \"ml.bank.example\"") && !strcontains(output.documents["Deployment/mlplatform/page"], "page.mlplatform:8090")
    error_message = "Probes ask for the page by the name that it answers to."
  }
  assert {
    condition     = contains(output.objects, "NetworkPolicy/mlplatform/sign-in")
    error_message = "The page may reach the provider."
  }
}

run "training_sets_are_joined_by_the_banks_spark" {
  command = plan

  variables {
    spark = true
  }

  assert {
    condition = alltrue([for name, value in {
      MLPLATFORM_TRAINING_ENGINE = "spark"
      SPARK_CONF_DIR             = "/run/secrets/spark"
    } : yamldecode(output.documents["ConfigMap/mlplatform/platform"]).data[name] == value])
    error_message = "Flow runs get the engine, and the folder where Secret `spark` is mounted."
  }
  assert {
    condition     = contains(output.objects, "NetworkPolicy/mlplatform/spark")
    error_message = "Flow runs may reach Spark, and its workers them."
  }
}

run "a_page_with_a_slash_at_its_end_would_stop_every_process_that_reads_the_settings" {
  command = plan

  variables {
    sign_in = { issuer = "https://login.bank.example", client_id = "ml", page = "https://ml.bank.example/" }
  }

  expect_failures = [var.sign_in]
}

run "the_worker_mounts_the_generated_template_by_its_name" {
  command = plan

  assert {
    condition = alltrue([
      for key in output.objects : strcontains(output.documents["Deployment/mlplatform/prefect-worker"], "\"name\": \"${split("/", key)[2]}\"")
      if startswith(key, "ConfigMap/mlplatform/flow-runs-")
    ])
    error_message = "A reference to the generated ConfigMap has its hashed name."
  }
  assert {
    condition     = length([for key in output.objects : key if startswith(key, "ConfigMap/mlplatform/flow-runs-")]) == 1
    error_message = "There is one such ConfigMap."
  }
  assert {
    condition     = contains(output.objects, "NetworkPolicy/mlplatform/flow-runs")
    error_message = "Another object of the same name keeps it."
  }
}

run "two_claims_name_the_same_files" {
  command = plan

  assert {
    condition     = yamldecode(output.documents["PersistentVolumeClaim/mlplatform/bundles"]).spec.volumeName == "mlplatform-bundles-platform"
    error_message = "The platform's claim is bound to its volume."
  }
  assert {
    condition     = yamldecode(kubectl_manifest.claim_of_models.yaml_body).metadata == { name = "bundles", namespace = "mlplatform-models" }
    error_message = "The predictors' claim has the same name."
  }
  assert {
    condition = alltrue([
      for v in kubectl_manifest.volume : yamldecode(v.yaml_body).spec.accessModes == ["ReadWriteMany"]
    ])
    error_message = "Many nodes mount them."
  }
}

run "state_outside_the_cluster_is_let_through_at_the_ports_of_the_manifests" {
  command = plan
  variables {
    state_ranges = ["10.0.8.0/22"]
  }

  assert {
    condition     = toset(keys(kubectl_manifest.state_outside)) == toset(["mlplatform", "mlplatform-models"])
    error_message = "Both namespaces reach the state."
  }
  assert {
    condition = toset([
      for p in yamldecode(kubectl_manifest.state_outside["mlplatform"].yaml_body).spec.egress[0].ports : p.port
    ]) == toset([443, 5432, 6379, 9092, 9093, 9096])
    error_message = "The ports are those of the policies for state inside the cluster."
  }
}

run "jobs_have_a_namespace_an_artifact_repository_and_who_may_start_them" {
  command = plan
  variables {
    jobs = { namespace = "mlplatform-jobs", bucket = "jobs.example", endpoint = "s3.example", region = "eu-central-1", gpus = 2 }
  }

  assert {
    condition     = yamldecode(output.documents["ConfigMap/mlplatform-jobs/mlplatform-pools"]).data.gpu == "2"
    error_message = "The pool has as many GPUs as were given."
  }
  assert {
    condition     = contains(output.objects, "WorkflowTemplate/mlplatform-jobs/fraud-score")
    error_message = "Templates of jobs are in the jobs' namespace."
  }
  assert {
    condition     = yamldecode(output.documents["RoleBinding/mlplatform-jobs/mlplatform-starts-jobs"]).subjects == [{ kind = "ServiceAccount", name = "batches", namespace = "mlplatform" }]
    error_message = "Flow runs may start jobs there."
  }
}

run "an_image_that_moves_is_refused" {
  command = plan
  variables {
    images = { gateway = "registry.example/gateway:latest", flows = "registry.example/flows:1", predictor = "registry.example/predictor:1" }
  }
  expect_failures = [var.images]
}

run "brokers_that_ask_for_a_user_get_its_password" {
  command = plan
  variables {
    addresses = {
      postgres         = "postgresql://mlplatform@db.example:5432/mlplatform"
      redis            = "rediss://mlplatform@cache.example:6379/0"
      kafka            = "kafka+ssl://mlplatform@kafka.example:9096"
      mlflow_postgres  = "postgresql://mlflow@db.example:5432/mlflow"
      mlflow_artifacts = "s3://artifacts.example/mlflow"
    }
  }

  assert {
    condition     = yamldecode(output.documents["ConfigMap/mlplatform/platform"]).data.MLPLATFORM_KAFKA_PASSWORD_FILE == "/run/secrets/mlplatform/kafka-password"
    error_message = "The worker reads the password where the manifests put it."
  }
}

run "a_password_in_an_address_is_refused" {
  command = plan
  variables {
    addresses = {
      postgres         = "postgresql://mlplatform:hunter2@db.example:5432/mlplatform"
      redis            = "rediss://mlplatform@cache.example:6379/0"
      mlflow_postgres  = "postgresql://mlflow@db.example:5432/mlflow"
      mlflow_artifacts = "s3://artifacts.example/mlflow"
    }
  }
  expect_failures = [var.addresses]
}

run "a_range_that_is_everything_is_refused" {
  command = plan
  variables {
    state_ranges = ["0.0.0.0/0"]
  }
  expect_failures = [var.state_ranges]
}
