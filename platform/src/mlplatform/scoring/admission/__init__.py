"""Who may ask, how much, and who waits when there is too much: decided before a request's work."""
