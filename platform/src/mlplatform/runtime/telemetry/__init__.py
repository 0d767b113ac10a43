"""A process's telemetry: metrics, spans, log lines and refusals."""
