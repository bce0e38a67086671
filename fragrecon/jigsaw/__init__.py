"""Jigsaw puzzles of photographs at full size: hundreds of pieces, any number of images, no trained model.

`pieces` cuts photographs into pieces, `compatibility` compares the sides of pieces, `evidence` turns this into log-odds
that two sides meet, `assemble` places the pieces, and `metrics` scores the result under the names of the field.
`fragrecon.reassembly` places the few fragments of images that a trained model has grouped.
"""
