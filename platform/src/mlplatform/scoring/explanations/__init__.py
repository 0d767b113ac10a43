"""Explanations of decisions for the clients that asked for them, computed beside scoring."""
