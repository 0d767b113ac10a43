"""Work on files from outside, in a process that may do nothing but compute and answer."""
