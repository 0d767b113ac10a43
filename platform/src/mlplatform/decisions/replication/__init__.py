"""The logs of several gateways, each on a volume of its own, replicated into one log that passes
read."""
