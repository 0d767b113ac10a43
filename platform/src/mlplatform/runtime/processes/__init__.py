"""Relations of one machine's processes: a parent's death, sockets that are handed down, endings."""
