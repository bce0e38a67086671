"""Scores of clustering fragments: the protocol, its baselines, and scores beyond the protocol.

`scoring` is the part that the suite runs; `pairs` and `reassembly` score models that predict more than embeddings;
`robustness` scores under other conditions.
"""
