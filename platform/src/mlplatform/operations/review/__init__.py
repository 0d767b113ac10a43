"""Decisions that people look at: which are open, what was said of them, and what makes a label."""
