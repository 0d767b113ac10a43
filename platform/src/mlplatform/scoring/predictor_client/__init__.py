"""How a gateway calls predictors: connections, deadlines, breakers, bulkheads, cached scores."""
