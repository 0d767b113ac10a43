"""Work on files from outside, in a process that can only compute and answer."""
