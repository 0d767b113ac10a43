"""Logs of several gateways, each on a volume of its own, as one log that passes read."""
