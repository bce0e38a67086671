"""Clustering of many small problems at once, and how well two clusterings agree. Tensors in and out, no I/O."""
