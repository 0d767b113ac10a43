"""How flow runs are asked for, answered and followed, without importing Prefect."""
