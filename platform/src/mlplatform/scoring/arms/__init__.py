"""What a gateway applies now: routes, arms, and the order in which they are asked."""
