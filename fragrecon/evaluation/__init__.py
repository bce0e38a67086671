"""Scores of models on the test split.

`setup` opens the data and the model, `suite` runs the parts (`clustering`, `pixels`, `probes`) one after the other, and
`cache` saves the scores of baselines for other runs. Trained probes are also saved here; everything else that is
written, printed or drawn belongs to `fragrecon.report`.
"""
