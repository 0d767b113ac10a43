"""Input and output of commands: arguments, tables, explanations, errors, exit codes."""
