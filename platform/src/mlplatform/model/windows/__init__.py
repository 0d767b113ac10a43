"""Windows over an entity's payments: how they are declared, and the arithmetic of their tiles."""
