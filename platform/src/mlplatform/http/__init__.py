"""HTTP/1.1 as gateway and predictor speak it: connections, requests and replies, no framework."""
