"""The platform that keeps a bank's scoring models right."""

import os

# ONNX Runtime sends events to its maker, and keeps them in the user's folder until it can; it reads
# this as it is imported, which nothing here does before this line.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
