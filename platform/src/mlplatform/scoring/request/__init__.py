"""The path of a request from its parsed body to its answer: features, prediction, decision, durable
record."""
