module mlplatform.test/cluster/gateway-api

go 1.26.0

// Only its CRDs are read, from config/crd/standard; nothing is compiled.
require sigs.k8s.io/gateway-api v1.6.1
