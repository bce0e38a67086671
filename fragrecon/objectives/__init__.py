"""What models are trained for, one module an objective; `base` has the contract. The losses are pure functions."""
