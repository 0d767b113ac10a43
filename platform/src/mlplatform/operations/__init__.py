"""Who runs the work, where and when: what people ask for, heavy work, Prefect, the processes of a
machine, backups.

Packages from the ground up: `prefect_client`, `compute`, `review`, `actions` and `tables`,
`card`, `prefect_server`, `supervisor`; `cluster`, `traffic` and `backup` stand by themselves.
`wiring` is the composition root of flows, commands and the page. Imports every area below:
`scoring`, `rollouts`, `learning`, `decisions`, `model` and `runtime`.
"""
