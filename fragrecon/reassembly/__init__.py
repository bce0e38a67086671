"""Reassembly: from fragments and a model's predictions to whole images.

`clues` computes placement scores, `rebuild` places the fragments of each image (with `place` and `exchange`), and
`solve` runs all steps for one puzzle. `fragrecon.evaluation.clustering.reassembly` scores the result.
"""
