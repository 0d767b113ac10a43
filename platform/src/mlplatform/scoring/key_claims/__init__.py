"""Claims on idempotency keys, by which one of several gateways with logs apart decides."""
