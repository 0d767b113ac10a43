"""Whether the requests of today still look like those that the champion learned from."""
