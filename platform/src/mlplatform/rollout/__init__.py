"""How a new version takes over from the champion: planned, judged, journalled and taken back."""
