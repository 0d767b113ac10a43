"""How processes of one machine belong together: death of a parent, sockets handed down, endings."""
