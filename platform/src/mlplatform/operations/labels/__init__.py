"""Files of labels on their way into the decision log."""
