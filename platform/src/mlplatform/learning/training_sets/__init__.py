"""Training sets: what was known at each request, joined in time, with labels that have matured."""
