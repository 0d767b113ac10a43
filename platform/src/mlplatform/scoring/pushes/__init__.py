"""Values of external views that applications push, on their way to requests and to training."""
