"""What another bundle would have decided about the last days' requests, beside one of ours."""
