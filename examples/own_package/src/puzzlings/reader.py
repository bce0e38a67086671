"""A reader: the images of a data set, in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fragrecon.data.store import Block, Source, Split


class Stripes:
    """Images of stripes; the class of an image is the direction of its stripes.

    Args:
        image_size: (height, width), from ``data.image_size``.
        channels: number of channels, from ``data.channels``.
        train_images: number of training images.
        test_images: number of test images.
    """

    def __init__(
        self, image_size: tuple[int, int], channels: int = 3, train_images: int = 400, test_images: int = 100
    ) -> None:
        self.shape = (channels, *image_size)
        self.counts: dict[Split, int] = {"train": train_images, "test": test_images}

    def source(self, split: Split) -> Source:
        """Describe a split: the images change whenever the first argument changes."""
        count = self.counts[split]
        return Source({"reader": "stripes", "split": split, "images": count}, count, ("rows", "columns"))

    def blocks(self, split: Split) -> Iterator[Block]:
        """Generate the images."""
        random = np.random.default_rng([len(split), self.counts[split]])
        channels, height, width = self.shape
        for index in range(self.counts[split]):
            wave = np.sin(np.arange(max(height, width)) * random.uniform(0.2, 1.5) + random.uniform(0, 6))
            stripes = np.tile(wave[:height, None], width) if index % 2 == 0 else np.tile(wave[:width], (height, 1))
            colours = random.uniform(20, 120, (2, channels, 1, 1))
            image = colours[0] + colours[1] * (stripes + 1) / 2
            yield Block(image.astype(np.uint8)[None], np.array([index % 2]))
