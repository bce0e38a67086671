"""Scores of models on the test split.

`setup` opens the data and defines the input (`Scoring`) and output (`PartResult`) of the parts `clustering`, `pixels`
and `probes`, which `suite` runs in order. `cache` saves the scores of baselines for other runs. Trained probes and
their tables are saved here, too; `fragrecon.runs` writes the scores, and `fragrecon.report` prints and draws them.
"""
