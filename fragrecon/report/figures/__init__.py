"""Figures, one module per subject; `tiles` lays out images pixel by pixel, `plotting` has helpers for plots."""
