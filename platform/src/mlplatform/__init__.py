"""The platform that keeps a bank's scoring models right."""

import os

# ONNX Runtime sends events to its maker, and keeps them in the user's folder until it can; it reads
# this as it is imported, which nothing here does before this line.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# What Arrow's own allocator has taken once stays with the process: 130 MB in a pass over the
# decision log. Arrow reads this at its first allocation.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
