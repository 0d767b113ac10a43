"""Features: one definition, compiled to offline SQL and to what the online store holds."""
