"""What is going on, and who is told: service levels, alerts, dashboards, the exporter and the page.

Packages from the ground up: `slo`; then `dashboards`, `exporter` and `page`. Imports every area
below: `operations`, `scoring`, `rollouts`, `learning`, `decisions`, `model` and `runtime`.
"""
