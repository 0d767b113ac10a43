"""Commands that look a decision up, or decide again."""
