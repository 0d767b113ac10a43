"""Commands by which people stop, start and test what answers: rollouts, models and variants."""
