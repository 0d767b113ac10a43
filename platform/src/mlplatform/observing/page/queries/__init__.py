"""The page's reads of the platform: logs, journals and metrics, as values that templates show."""
