"""The state of rollouts, drift, labels and the log as metrics, none of which a request changes."""
