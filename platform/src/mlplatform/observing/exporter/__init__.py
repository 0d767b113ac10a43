"""The state of rollouts, drift, labels and log as metrics: what no request passes through."""
