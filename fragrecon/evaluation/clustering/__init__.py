"""Scores of clustering fragments: the protocol, its baselines, and scores outside of the protocol.

`scoring` is the part of the suite; `pairs` and `reassembly` score models that predict more than embeddings,
`robustness` scores harder puzzles.
"""
