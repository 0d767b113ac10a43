"""Events to people and other systems: receivers, signatures, and repeated delivery."""
