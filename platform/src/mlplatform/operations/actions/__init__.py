"""What flows, commands and the demo ask for: each action in a few steps over the ports."""
