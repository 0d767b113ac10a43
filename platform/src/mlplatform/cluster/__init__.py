"""What the platform asks of a Kubernetes cluster."""
