"""The journal of rollouts: transitions, the state that they fold into, and the routes, in one
transaction."""
