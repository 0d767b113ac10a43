"""Records that wait in files beside the log while it does not take them."""
