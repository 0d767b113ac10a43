"""How a new version takes over from the champion: planned, carried out, and rolled back."""
