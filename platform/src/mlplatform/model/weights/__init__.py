"""Weights of a model that lie in files beside its graph (ONNX external data)."""
