"""Linear encoding models: from features of stimuli to responses of many targets.

Features are X [T, F] and responses Y [T, V], time by feature and time by target, both
z-scored by the caller (no model here has an intercept). Arrays are NumPy's; the heavy
work runs on jax's devices, in float32, or in float64 where jax has it enabled.
"""
