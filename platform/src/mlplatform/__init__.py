"""The platform that trains, checks, rolls out, watches and rolls back a bank's scoring models."""

import os

# ONNX Runtime sends usage events to its maker, and stores them in the user's folder until it can
# send. It reads this variable when it is imported, and nothing here imports it before this line.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Arrow's own allocator keeps memory that it has taken once: 130 MB after a pass over the decision
# log. Arrow reads this variable at its first allocation.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
