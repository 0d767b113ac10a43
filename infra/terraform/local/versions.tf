terraform {
  required_version = ">= 1.11"
  required_providers {
    helm = {
      source  = "hashicorp/helm"
      version = "~> 3.3"
    }
    kubectl = {
      source  = "gavinbunney/kubectl"
      version = "~> 1.19"
    }
  }

  # State lies in the cluster that it is about, as a Secret, with a lock; it goes when the cluster goes. Namespace, name and
  # kubeconfig are given at init: `-backend-config=config_path=…`.
  backend "kubernetes" {
    secret_suffix = "mlplatform"
    namespace     = "kube-system"
  }
}

provider "kubectl" {
  config_path       = var.kubeconfig
  config_context    = var.context
  load_config_file  = true
  apply_retry_count = 5 # a definition that is seconds old is not served at once
}

provider "helm" {
  kubernetes = {
    config_path    = var.kubeconfig
    config_context = var.context
  }
}
