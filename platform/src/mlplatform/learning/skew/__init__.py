"""Skew: whether decisions read what they should have, by a sample that is counted again from raw
records."""
