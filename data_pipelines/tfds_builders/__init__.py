"""Datasets for TensorFlow Datasets, written as array_record without TensorFlow."""
