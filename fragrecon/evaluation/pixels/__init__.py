"""Pixels: reconstruction, inpainting, perceptual distances and generation."""
