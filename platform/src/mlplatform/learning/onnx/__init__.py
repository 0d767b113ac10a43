"""ONNX models: limits, confined loading, scores and explanations."""
