"""Scores rows with one bundle's ONNX model, over the Open Inference Protocol."""
