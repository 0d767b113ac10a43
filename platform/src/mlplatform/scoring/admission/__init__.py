"""Admission: who may ask, how often, and who is turned away under overload. It is decided before a
request's work."""
