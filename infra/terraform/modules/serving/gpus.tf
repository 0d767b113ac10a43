# Device plug-in, labels, MIG and DCGM's metrics of NVIDIA's GPUs.
locals {
  shared = try(var.gpus.pods_per_gpu, 1) > 1
  # How a GPU is shared is the device plug-in's configuration, by name; whole GPUs need none.
  time_slicing = {
    create  = true
    name    = "gpu-sharing"
    default = "shared"
    data = { shared = yamlencode({
      version = "v1"
      sharing = { timeSlicing = { renameByDefault = true, resources = [{ name = "nvidia.com/gpu", replicas = try(var.gpus.pods_per_gpu, 1) }] } }
    }) }
  }
}

resource "helm_release" "gpu_operator" {
  count            = var.gpus == null ? 0 : 1
  name             = "gpu-operator"
  repository       = "https://helm.ngc.nvidia.com/nvidia"
  chart            = "gpu-operator"
  version          = var.versions.gpu_operator
  namespace        = "gpu-operator"
  create_namespace = true
  atomic           = true
  values = [yamlencode(merge(
    {
      driver  = { enabled = !var.gpus.driver_on_nodes }
      toolkit = { enabled = !var.gpus.driver_on_nodes }
      mig     = { strategy = var.gpus.mig }
      # Scraped by the job `dcgm` of observability/prometheus/cluster.yaml, which knows whose pod holds a GPU; once is enough.
      dcgmExporter = { serviceMonitor = { enabled = false } }
    },
    { for name in ["devicePlugin"] : name => { config = local.time_slicing } if local.shared },
  ))]
}
