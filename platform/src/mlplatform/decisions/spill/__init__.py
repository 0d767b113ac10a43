"""Records that wait in files beside the log while the log does not accept them."""
