"""Watching the platform and notifying people: service levels, alerts, dashboards, metrics, page,
events.

Packages from the ground up: `slo`; `dashboards`, `exporter`, `page` and `events`. Imports every
area below: `operations`, `scoring`, `rollouts`, `learning`, `decisions`, `model` and `runtime`.
"""
