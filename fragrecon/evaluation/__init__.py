"""Scores of models on the test split.

Here belongs what computes scores from a model and data: `setup` opens what a run is scored with, `suite` runs the
parts (`clustering`, `pixels`, `probes`) one after the other, `cache` keeps the scores of baselines. Trained probes are
saved here; all else that is written, printed or drawn belongs to `fragrecon.report`.
"""
