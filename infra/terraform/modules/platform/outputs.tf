output "objects" {
  description = "`Kind/namespace/name` of what comes from this repository's manifests."
  value = sort(concat(
    module.base.objects, module.runtime.objects, module.workloads.objects,
    flatten(module.secrets[*].objects), flatten(module.mesh[*].objects), flatten(module.sign_in[*].objects), flatten(module.spark[*].objects), flatten(module.jobs[*].objects),
  ))
}

output "documents" {
  description = "The same, to the YAML that is applied."
  value = merge(concat(
    [module.base.documents, module.runtime.documents, module.workloads.documents],
    module.secrets[*].documents, module.mesh[*].documents, module.sign_in[*].documents, module.spark[*].documents, module.jobs[*].documents,
  )...)
}
