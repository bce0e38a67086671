"""Clustering of puzzles: the protocol, its baselines, pair scores, reassembly and robustness."""
