"""Training objectives, one module per objective; `base` has the interface. The losses are pure functions."""
