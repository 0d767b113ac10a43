"""Decisions of another bundle about the last days' requests, beside those of one of ours."""
