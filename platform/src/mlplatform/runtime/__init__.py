"""What every process stands on: errors, time, text, canonical bytes; nothing here knows what a
model is.

Packages from the ground up: `sandbox` and `storage`; `configuration`; `processes`; `telemetry`;
`http`. Imports none of the other areas.
"""
