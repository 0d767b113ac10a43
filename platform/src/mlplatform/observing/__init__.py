"""What is going on, and who is told: service levels, alerts, dashboards, the exporter, the page, events.

Packages from the ground up: `slo`; then `dashboards`, `exporter`, `page` and `events`. Imports every area
below: `operations`, `scoring`, `rollouts`, `learning`, `decisions`, `model` and `runtime`.
"""
