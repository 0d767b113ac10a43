"""Features: one definition, compiled to offline SQL and to the content of the online store."""
