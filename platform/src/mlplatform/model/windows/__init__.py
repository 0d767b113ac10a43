"""Windows over an entity's requests: their declarations, and the arithmetic of their tiles."""
