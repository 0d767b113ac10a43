"""The evidence of the decision log about a challenger: windows, statistics, gates and verdicts."""
