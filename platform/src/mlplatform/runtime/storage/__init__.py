"""Files, databases and the disk below them: small drivers, and what may be said of their errors."""
