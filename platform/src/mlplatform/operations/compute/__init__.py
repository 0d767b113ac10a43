"""Heavy work beside the platform's own processes: in a bounded pool here, in pods on a cluster."""
