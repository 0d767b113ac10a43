"""What the processes in a request's path tell about themselves: metrics, spans and log lines."""
