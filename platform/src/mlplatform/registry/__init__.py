"""Decision bundles, the rules and reasons in them, and the versions that a registry keeps."""
