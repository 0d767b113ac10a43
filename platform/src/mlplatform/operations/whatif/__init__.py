"""What another version would have decided of the last days: requests of the log, decided again."""
