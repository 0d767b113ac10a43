"""HTTP/1.1 listeners: connections, requests, replies, limits and problems, no framework."""
