"""Readers of intracranial recordings and their preparation."""
