terraform {
  required_version = ">= 1.11" # write-only arguments; OpenTofu: 1.11 too
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.69"
    }
    helm = {
      source  = "hashicorp/helm"
      version = "~> 3.3"
    }
    kubectl = {
      source  = "gavinbunney/kubectl"
      version = "~> 1.19"
    }
  }

  # Bucket, key, region and KMS key are given at init: `-backend-config=backend.hcl`.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region              = var.region
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = merge({ Platform = "mlplatform", Environment = var.environment, ManagedBy = "terraform" }, var.tags)
  }
}

# Whoever applies speaks to the cluster as themselves, with a token of minutes: no kubeconfig, and none in the state.
locals {
  token = ["eks", "get-token", "--cluster-name", module.cluster.name, "--region", var.region]
}

provider "kubectl" {
  host                   = module.cluster.endpoint
  cluster_ca_certificate = base64decode(module.cluster.authority)
  load_config_file       = false
  apply_retry_count      = 5 # a definition that is seconds old is not served at once

  exec {
    api_version = "client.authentication.k8s.io/v1beta1"
    command     = "aws"
    args        = local.token
  }
}

provider "helm" {
  kubernetes = {
    host                   = module.cluster.endpoint
    cluster_ca_certificate = base64decode(module.cluster.authority)
    exec = {
      api_version = "client.authentication.k8s.io/v1beta1"
      command     = "aws"
      args        = local.token
    }
  }
}
