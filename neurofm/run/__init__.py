"""What a training run keeps: time, metrics, its folder, and reasons to stop."""
