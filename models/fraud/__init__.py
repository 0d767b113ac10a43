"""Card payment fraud: the first model of the platform."""
