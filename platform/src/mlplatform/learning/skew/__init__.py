"""Whether decisions read what they should have: a sample, counted again from raw records."""
