"""The decision log of one folder: appended, read, sealed into segments, and proven."""
