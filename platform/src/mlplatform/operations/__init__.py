"""The running of an installation: actions that people ask for, heavy work, Prefect, the processes
of a machine, backups.

Packages from the ground up: `cluster`, `compute`, `prefect_client` and `traffic`; `review`;
`actions`, `backup`, `erasure`, `labels`, `tables` and `whatif`; `card` and `prefect_server`;
`supervisor`. `wiring`, above `review`, makes the adapters of flows, commands and the page. Imports
every area below: `scoring`, `rollouts`, `learning`, `decisions`, `model` and `runtime`.
"""
