"""Requests that name several items, which one answer puts in order (decision 0159)."""
