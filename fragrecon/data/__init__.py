"""From image files to batches of shuffled fragments."""
