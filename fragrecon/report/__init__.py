"""Reports of runs and sweeps: terminal tables, figures, leaderboards and pages.

`metrics` describes every metric (name, unit, direction, digits). `results` scores a model and reports the scores,
`terminal` prints tables, `leaderboard` ranks the configurations of a sweep, `sweep_files` writes them, `tables` makes
the tables of `page` (``report.html``), and `figures` draws. Scores are computed in `fragrecon.evaluation`.
"""
