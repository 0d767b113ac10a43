"""Sources of inputs: views of entities, and transforms of the request itself."""
