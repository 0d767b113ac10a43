"""Requirements of the platform on a Kubernetes cluster, and a check of an existing one against
them."""
