"""Record stores and the batches made from them."""
