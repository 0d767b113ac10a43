"""Reports of clients on past decisions: labels, voids, and who owns a decision."""
