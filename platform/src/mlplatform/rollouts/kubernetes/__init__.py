"""The Kubernetes API, and what room a cluster has."""
