"""The scoring API: one decision for every request, in time, and recorded before the answer."""
