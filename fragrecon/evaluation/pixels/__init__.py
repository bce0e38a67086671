"""Scores of pixels: reconstruction, inpainting with its baselines, perceptual distances, and samples of the prior.

`scoring` is the part that the suite runs; `inpainting_examples` computes the images of figures.
"""
