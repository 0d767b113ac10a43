"""Attacks on a running platform, by the door that each of them tries."""
