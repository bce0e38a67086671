"""Networks that embed fragments, one module per model; `base` has the interface, `blocks` the shared layers."""
