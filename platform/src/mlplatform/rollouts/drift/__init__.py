"""Whether today's requests still look like those that the champion learned from."""
