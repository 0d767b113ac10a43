"""What every process stands on: errors, time, text, canonical bytes; nothing here knows what a
model is.

Packages from the ground up: `storage`, `sandbox`, `processes`, `configuration`, `telemetry`,
`http`. Imports none of the other areas.
"""
