"""A model, a reader, an objective and a metric for fragrecon."""
