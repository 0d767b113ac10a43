module mlplatform.test/cluster/pause

go 1.26.0
