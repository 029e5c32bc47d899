"""Start a command on several processes, here or on TPU slices, and keep it running."""
