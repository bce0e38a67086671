"""Reports of runs and sweeps: printed tables, figures, leaderboards and pages.

`metrics` describes every metric (name, unit, direction, digits). `results` scores a model and reports the scores,
`terminal` prints tables, `leaderboard` orders the configurations of a sweep, `sweep_files` writes them, `tables` makes
the tables of `page` (``report.html``), and `figures` draws. What a score is belongs in `fragrecon.evaluation`.
"""
