"""Reports: everything people look at.

`metrics` describes every metric (name, unit, direction, digits); tables in the terminal, leaderboards of sweeps,
`figures` and `page` (``report.html``) read it. Nothing is computed here that `fragrecon.evaluation` could compute.
"""
