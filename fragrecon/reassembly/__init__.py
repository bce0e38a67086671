"""Reassembly: from fragments and a model's predictions to whole images.

`clues` rates cells and neighbours, `rebuild` places the fragments of each image (by `place` and `exchange`), and
`solve` does all of it for one puzzle. `fragrecon.evaluation.clustering.reassembly` scores the result.
"""
