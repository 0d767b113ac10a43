"""Search of hyper-parameters on the days that a model is fitted to."""
