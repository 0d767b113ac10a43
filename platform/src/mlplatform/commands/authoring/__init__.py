"""Commands of who writes a model: a folder that works at once, and what is wrong in one."""
