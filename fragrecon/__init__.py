"""Learning from image fragments: one command trains, sweeps and evaluates models of the mixed fragment puzzle."""

__version__ = "0.1.0"
