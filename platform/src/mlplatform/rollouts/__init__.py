"""Rollouts, drift and the services of versions: who answers whom, and whether it is good enough.

Packages from the ground up: `journal` and `kubernetes`; `serving`; `bundles` and `verdicts`;
`cache` and `whatif`; `drift` and `passes`; `variants`; `events`. Imports `learning`, `decisions`,
`model` and `runtime`.
"""
