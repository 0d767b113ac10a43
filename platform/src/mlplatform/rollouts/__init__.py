"""Who answers whom, and whether that is good enough: rollouts, drift, and the services of versions.

Packages from the ground up: `journal` and `kubernetes`; `serving`; `verdicts`; `cache` and
`whatif`; `drift` and `passes`; `events`. Imports `learning`, `decisions`, `model` and `runtime`.
"""
