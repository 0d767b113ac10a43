"""What clients say of past decisions: labels, voids, and whose a decision is."""
