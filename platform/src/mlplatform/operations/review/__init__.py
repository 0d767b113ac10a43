"""Reviews of decisions by people: the open ones, the opinions on them, and the labels that
follow."""
