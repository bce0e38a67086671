"""Networks that embed fragments, one module a model; `base` has the contract, `blocks` what several share."""
