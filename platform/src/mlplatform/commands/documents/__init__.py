"""Documents rendered from code: settings, signals, messages."""
