"""A small stand-in for KServe's controller, which is published in no package registry.

It does what the platform's tests need of Standard mode, held by tests to what the real one makes.
"""
