"""Real Prometheus, Alertmanager and OpenTelemetry Collector over a running platform."""
