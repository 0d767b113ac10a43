"""A folder in which Feast's own commands find a model's features, rendered without Feast."""
