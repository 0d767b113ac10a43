"""Clients of the Kubernetes API, and the free capacity of a cluster."""
