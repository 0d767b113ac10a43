"""Documents rendered from code: settings, signals, messages, keys of model.yaml."""
