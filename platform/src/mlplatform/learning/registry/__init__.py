"""The versions that may serve, kept in MLflow."""
