"""Load tests of a gateway by k6: `python -m tests.load`, and what they measure against."""
