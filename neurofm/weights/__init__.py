"""Tensors of other formats, names of our own, and strict imports between them."""
