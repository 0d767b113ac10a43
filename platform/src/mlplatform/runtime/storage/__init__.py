"""Files, databases and the disk below them: small drivers, and the meaning of their errors."""
