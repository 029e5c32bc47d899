"""Scores of frozen features: splits, probes, baselines, intervals."""
