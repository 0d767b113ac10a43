"""The path of a request: features, prediction, decision, durable record, answer."""
