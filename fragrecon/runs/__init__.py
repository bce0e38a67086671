"""Run folders: what a run writes, how a run is opened, and sweeps of runs."""
