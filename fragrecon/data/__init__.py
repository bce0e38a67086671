"""Data: from image files to batches of shuffled fragments.

`readers` has one module per on-disk format. A reader's images are converted once into a `store`, from which `puzzles`
are drawn, cut and shuffled; `augment` and `corruption` change them on the device. `adjacency` tells which fragments are
neighbours. `module` is the DataModule that the Trainer and the evaluation read from.
"""
