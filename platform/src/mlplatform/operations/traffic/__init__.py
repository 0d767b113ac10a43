"""Traffic statistics for people, counted from the decision log into a projection of bounded
size."""
