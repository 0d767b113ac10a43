"""What the flows, the command line and the demo ask for, each in a few steps over the ports."""
