"""Checks of `infra/terraform`: what is known without an account, and what an API server says."""
