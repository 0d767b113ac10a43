module mlplatform.test/cluster/keda

go 1.26.0

// Only a definition is read, from config/crd/bases; nothing is compiled.
require github.com/kedacore/keda/v2 v2.18.0
