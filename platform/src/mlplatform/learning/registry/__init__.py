"""The registry: versions that may serve, kept in MLflow."""
