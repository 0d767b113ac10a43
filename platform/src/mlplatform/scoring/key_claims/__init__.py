"""Which gateway decides a request under an idempotency key, where gateways have logs apart."""
