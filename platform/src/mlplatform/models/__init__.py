"""What a model folder says, and the folders themselves, one per model."""
