"""What every process stands on: errors, time, text, canonical bytes; nothing here knows what a
model is.

Packages from the ground up: `storage`, `sandbox`, `configuration`, `processes`, `telemetry`,
`http`. Imports none of the other areas.
"""
