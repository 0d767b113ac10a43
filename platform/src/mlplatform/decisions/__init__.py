"""The record of what happened: the decision log, what waits beside it, copies of it, and topics.

Packages from the ground up: `records`; `spill`; `log`; `topics`; `replication`. Imports `model` and
`runtime`.
"""
