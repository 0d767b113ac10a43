"""How commands read arguments and speak to a person: tables, explanations, errors, exit codes."""
