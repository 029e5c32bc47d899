"""HEAR: its task folders, its probe and its scores (Turian et al., 2203.03022)."""
