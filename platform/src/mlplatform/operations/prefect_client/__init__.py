"""Client of Prefect: requests, answers and follows flow runs without importing Prefect."""
