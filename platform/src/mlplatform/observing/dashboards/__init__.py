"""Dashboards of Grafana for people, generated from signals.py, slo.yaml and model.yaml."""
