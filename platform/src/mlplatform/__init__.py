"""The platform that keeps a bank's scoring models right."""
