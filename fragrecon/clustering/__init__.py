"""Clustering of many small problems at once, and measures of agreement; tensors in and out, no I/O."""
