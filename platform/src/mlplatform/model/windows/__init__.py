"""Windows over an entity's requests: how they are declared, and the arithmetic of their tiles."""
