"""Trained weights of `fragrecon`'s model mosaic: ``fragrecon.load_run("mosaic")`` or ``run=mosaic`` loads them."""
