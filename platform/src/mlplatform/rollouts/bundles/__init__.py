"""Bundles between machines: the store that all share, and the cache of one machine."""
