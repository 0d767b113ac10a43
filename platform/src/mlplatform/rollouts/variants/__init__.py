"""A/B/n tests: former champions that answer fixed shares of the customers beside the champion."""
