"""What traffic was like, counted from the decision log for people: a bounded projection."""
