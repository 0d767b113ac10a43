"""Dashboards of Grafana: what people look at, drawn from signals.py, slo.yaml and model.yaml."""
