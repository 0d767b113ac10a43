"""Documents that are rendered from code: settings, signals, messages."""
