"""One module an objective. The contract is in `fragrecon.objectives.base`."""
