"""What a record of the decision log holds, the port that takes it, and its tables."""
