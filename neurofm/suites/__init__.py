"""Suites of `neurofm evaluate --suite`: what is measured, declared as data."""
