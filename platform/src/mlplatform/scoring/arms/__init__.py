"""The state that a gateway applies: routes, arms, and the order in which they are asked."""
