"""What `embed` stands on: inputs, windows, and the model run over them."""
