"""What is going on, and who is told: service levels, alerts, dashboards, the exporter and the page.

Imports every area below: `operations`, `scoring`, `rollouts`, `learning`, `decisions`, `model` and
`runtime`.
"""
