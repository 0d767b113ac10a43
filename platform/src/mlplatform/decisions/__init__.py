"""The decision log: what was asked, answered, shadowed and labelled, and the proof of it."""
