"""What the decision log shows about a challenger: windows, statistics, gates and verdicts."""
