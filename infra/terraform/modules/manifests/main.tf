# The repository's own manifests, read where they lie. Kustomize's lists of files and its generators of ConfigMaps are
# honoured; of its transformers there is what the variables say, so that a plan needs no second program. Which objects there
# are follows from the files alone: a value that is known only after an apply may stand in any of them.
locals {
  kustomizations = { for f in var.folders : f => yamldecode(file("${f}/kustomization.yaml")) }

  listed = concat(var.files, flatten([
    for f in var.folders : [for r in local.kustomizations[f].resources : "${f}/${r}"]
  ]))

  # A document is what stands between two lines of three hyphens; comments alone are none.
  written = flatten([
    for f in local.listed : [
      for part in split("\n---\n", replace(file(f), "/^---\n/", "")) : part
      if can(yamldecode(part).kind)
    ]
  ])

  # As kustomize does it: other content is another name, so that what mounts it starts anew.
  generators = flatten([
    for f in var.folders : [
      for g in try(local.kustomizations[f].configMapGenerator, []) : {
        name      = g.name
        namespace = try(g.namespace, var.namespace)
        labels    = try(local.kustomizations[f].generatorOptions.labels, {})
        data      = { for name in g.files : name => file("${f}/${name}") }
      }
    ]
  ])
  generated_names = { for g in local.generators : g.name => "${g.name}-${substr(sha256(jsonencode(g.data)), 0, 10)}" }
  generated = [
    for g in local.generators : yamlencode({
      apiVersion = "v1"
      kind       = "ConfigMap"
      metadata   = { name = local.generated_names[g.name], namespace = g.namespace, labels = g.labels }
      data       = g.data
    })
  ]

  # What the whole cluster has, of all kinds that are applied here.
  clusterwide = [
    "Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding", "ClusterServingRuntime",
  ]
  texts = {
    for t in concat(local.written, local.generated) : join("/", [
      yamldecode(t).kind,
      try(yamldecode(t).metadata.namespace, contains(local.clusterwide, yamldecode(t).kind) ? "" : coalesce(var.namespace, "-")),
      yamldecode(t).metadata.name,
    ]) => t
  }
  kept = { for key, text in local.texts : key => text if !contains(var.left_out, key) }

  pairs = concat(
    [for old, new in var.replacements : { old = old, new = new }],
    [for i in range(6 - length(var.replacements)) : { old = "\u0001", new = "" }],
  )
  replaced_1 = { for k, t in local.kept : k => strcontains(t, local.pairs[0].old) ? replace(t, local.pairs[0].old, local.pairs[0].new) : t }
  replaced_2 = { for k, t in local.replaced_1 : k => strcontains(local.kept[k], local.pairs[1].old) ? replace(t, local.pairs[1].old, local.pairs[1].new) : t }
  replaced_3 = { for k, t in local.replaced_2 : k => strcontains(local.kept[k], local.pairs[2].old) ? replace(t, local.pairs[2].old, local.pairs[2].new) : t }
  replaced_4 = { for k, t in local.replaced_3 : k => strcontains(local.kept[k], local.pairs[3].old) ? replace(t, local.pairs[3].old, local.pairs[3].new) : t }
  replaced_5 = { for k, t in local.replaced_4 : k => strcontains(local.kept[k], local.pairs[4].old) ? replace(t, local.pairs[4].old, local.pairs[4].new) : t }
  replaced   = { for k, t in local.replaced_5 : k => strcontains(local.kept[k], local.pairs[5].old) ? replace(t, local.pairs[5].old, local.pairs[5].new) : t }

  patched = {
    for key, text in local.replaced : key => yamlencode(merge(
      yamldecode(text),
      {
        metadata = merge(
          { for n in compact([split("/", key)[1]]) : "namespace" => n if n != "-" },
          yamldecode(text).metadata,
        )
      },
      { for top, change in try(var.patches[key], {}) : top => try(merge(yamldecode(text)[top], change), change) },
    ))
  }

  # References to generated ConfigMaps follow their names; in a volume `configMap` stands right above `name`.
  reference = "(\"configMap\":\\s+\"name\": \")(${join("|", concat(["\u0001"], keys(local.generated_names)))})\""
  mentioned = {
    for key, text in local.kept : key => distinct([
      for m in regexall(local.reference, yamlencode(yamldecode(text))) : m[1]
    ])
  }
  named = {
    for key, text in local.patched : key => length(local.mentioned[key]) == 0 ? text : replace(
      text, "/${local.reference}/", "$${1}${local.generated_names[one(local.mentioned[key])]}\""
    )
  }

  # Namespaces and priorities are there before what stands in them, and go after it.
  first = { for key, text in local.named : key => text if contains(["Namespace", "PriorityClass"], split("/", key)[0]) }
  rest  = { for key, text in local.named : key => text if !contains(["Namespace", "PriorityClass"], split("/", key)[0]) }

  unmet  = [for old in keys(var.replacements) : old if !anytrue([for t in values(local.texts) : strcontains(t, old)])]
  nobody = [for key in concat(keys(var.patches), tolist(var.left_out)) : key if !contains(keys(local.texts), key)]
}

resource "kubectl_manifest" "first" {
  for_each          = local.first
  yaml_body         = each.value
  server_side_apply = true
  wait              = true # for its end, at a destroy
}

resource "kubectl_manifest" "rest" {
  for_each          = local.rest
  yaml_body         = each.value
  server_side_apply = true
  wait_for_rollout  = var.wait_for_rollout
  depends_on        = [kubectl_manifest.first]

  lifecycle {
    precondition {
      condition     = length(local.unmet) == 0
      error_message = "In no manifest, so that nothing would be replaced: ${join(", ", local.unmet)}"
    }
    precondition {
      condition     = length(local.nobody) == 0
      error_message = "Patched or left out, but in no manifest: ${join(", ", local.nobody)}"
    }
  }
}
