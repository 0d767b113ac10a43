"""What a person types in the first hour."""
