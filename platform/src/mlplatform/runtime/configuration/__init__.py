"""The settings of an installation: environment variables, parsed and checked once."""
