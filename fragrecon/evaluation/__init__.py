"""How models are judged: the clustering protocol and its baselines."""
