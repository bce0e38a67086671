"""Reassembly: from fragments and a model's predictions to whole images.

`clues` rates cells and neighbours, `rebuild` groups and places fragments (`place`, `exchange`), and `solve` does all of
it for one puzzle. Scores of reassembled puzzles belong to `fragrecon.evaluation.clustering.reassembly`.
"""
