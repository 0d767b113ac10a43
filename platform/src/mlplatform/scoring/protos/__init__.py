"""Message classes and stubs generated from platform/protos, and how they are generated."""
