"""Scores of pixels: reconstruction, inpainting with its baselines, perceptual distances, and samples of the prior.

`scoring` is the part of the suite; `inpainting_examples` are images to draw.
"""
