"""Scores the messages of a topic into another, through the gateway."""
