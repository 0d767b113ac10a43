"""A real Kafka broker for tests: one node, on loopback, from the jars of a Maven project."""
