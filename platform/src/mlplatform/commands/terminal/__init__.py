"""How commands speak to a person: tables, Markdown, explanations, errors, exit codes, secrets."""
