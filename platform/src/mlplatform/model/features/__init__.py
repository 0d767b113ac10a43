"""Where inputs come from: views of entities, and transforms of the request itself."""
