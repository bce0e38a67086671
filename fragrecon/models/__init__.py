"""One module a model. The contract is in `fragrecon.models.base`."""
