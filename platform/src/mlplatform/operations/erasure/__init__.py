"""Erasure of a person's rows of features from every place where the platform holds them."""
