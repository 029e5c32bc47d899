"""Linen parts that the models are composed of."""
