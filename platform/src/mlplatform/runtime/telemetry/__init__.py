"""What a process tells about itself: metrics, spans, log lines and refusals."""
