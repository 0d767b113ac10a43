"""A person's rows of features, taken out of every place that the platform has of them."""
