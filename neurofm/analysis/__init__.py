"""Comparing saved activations: similarity, geometry, retrieval, zero-shot, HEAR.

All of it runs in float64 on the host: ranks, ties and thresholds decide the results,
and the rows are recordings, so thousands. What learns, the probe of HEAR, runs in JAX.
"""
