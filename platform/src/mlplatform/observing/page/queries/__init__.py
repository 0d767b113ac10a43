"""The page's reads of the platform: logs, journals, metrics, as values that templates show."""
