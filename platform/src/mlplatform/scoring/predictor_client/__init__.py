"""The gateway's calls of predictors: connections, deadlines, breakers, bulkheads, cached scores."""
