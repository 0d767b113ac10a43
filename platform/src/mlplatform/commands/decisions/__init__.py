"""Commands that look a decision up, or make decisions again."""
