"""What the platform asks of a Kubernetes cluster, and what an existing one lacks."""
