"""Training sets: the features known at each request, joined in time, with matured labels."""
