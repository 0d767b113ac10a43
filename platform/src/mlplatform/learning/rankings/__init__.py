"""Models that put items in order: measures of an order, and their gates (decision 0159)."""
