"""Commands for a person's first hour with the platform."""
