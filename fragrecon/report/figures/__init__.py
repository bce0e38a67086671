"""Figures, a module for each subject; `tiles` lays out images pixel by pixel, `plotting` holds what plots share."""
