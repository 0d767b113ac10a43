"""Groups of protected attributes, compared by the outcomes or the errors that they get."""
