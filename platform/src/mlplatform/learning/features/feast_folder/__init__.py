"""A folder in which Feast's own commands find a model's features, and the store that they read."""
