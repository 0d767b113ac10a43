"""Events to people and other systems: who gets which, signed how, sent again until it is taken."""
