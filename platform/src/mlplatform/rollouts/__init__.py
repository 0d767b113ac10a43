"""Who answers whom, and whether that is good enough: rollouts, drift, and the services of versions.

Packages from the ground up: `journal`, `kubernetes`, `serving`, `verdicts`, `passes`; `drift`
stands by itself; `outbox` is above both. Imports `learning`, `decisions`, `model` and `runtime`.
"""
