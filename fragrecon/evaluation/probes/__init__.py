"""Probes: classifiers trained on frozen embeddings."""
