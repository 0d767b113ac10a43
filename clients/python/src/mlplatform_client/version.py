"""Which release this is: the number of the platform's release."""

__version__ = "0.3.0"
