"""Actions that flows, commands and the demo ask for, each a few steps over the ports."""
