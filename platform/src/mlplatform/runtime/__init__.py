"""The base of every process: errors, time, text, canonical bytes. Nothing here knows what a model
is.

Packages from the ground up: `sandbox` and `storage`; `configuration`; `processes`; `telemetry`;
`http`. Imports none of the other areas.
"""
