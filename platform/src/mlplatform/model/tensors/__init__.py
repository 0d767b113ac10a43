"""How the values of a row become what an ONNX graph takes: places of a vocabulary, and tensors."""
