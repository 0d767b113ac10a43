"""Real servers for tests, as local processes on loopback; the environment can name others."""
