"""Scores of models on the test split.

`setup` opens the data and defines the input (`Scoring`) and output (`PartResult`) of the parts `clustering`, `pixels`
and `probes`, which `suite` runs in order. `cache` saves the scores of baselines for other runs. Trained probes are
saved here, too; everything else that is written, printed or drawn belongs to `fragrecon.report`.
"""
