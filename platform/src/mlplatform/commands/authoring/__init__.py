"""Commands for authors of models: write a model folder that works at once, and check one."""
