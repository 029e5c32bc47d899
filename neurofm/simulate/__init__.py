"""Generated signals with known truth."""
