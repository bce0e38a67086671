"""Configuration: typed sections, objects built from them, and configs saved by runs."""
