"""The inputs of an ONNX graph from the values of a row: places of a vocabulary, and tensors."""
