"""Heavy work beside the platform's own processes: in a bounded pool on this machine, in pods on a
cluster."""
