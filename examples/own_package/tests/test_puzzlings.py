"""The package's own tests: a model, an objective and a metric need no configuration."""

from __future__ import annotations

import torch
from puzzlings.metric import Neighbourhood
from puzzlings.model import GrayWorld
from puzzlings.objective import Variance
from puzzlings.reader import Stripes

from fragrecon.data.puzzles import FragmentBatch, make_batch


def puzzles(count: int = 2) -> FragmentBatch:
    """Puzzles of three images with 16 fragments of 8x8 pixels each, in order."""
    blocks = Stripes((32, 32), train_images=3 * count).blocks("train")
    images = torch.cat([torch.from_numpy(block.images) for block in blocks])
    ids = torch.arange(3 * count).view(count, 3)
    order = torch.arange(48).expand(count, -1)
    return make_batch(images.view(count, 3, 3, 32, 32), ids, ids, order, (8, 8), 0).as_float()


def test_the_mean_colour_of_a_fragment_does_not_matter() -> None:
    model = GrayWorld((3, 8, 8)).eval()
    fragments = puzzles().fragments
    torch.testing.assert_close(model.encode(fragments), model.encode(fragments + 0.25), rtol=1e-4, atol=1e-5)


def test_the_loss_of_identical_embeddings_is_their_missing_variance() -> None:
    model = GrayWorld((3, 8, 8))
    torch.nn.init.zeros_(model.layers[-1].weight)
    losses = Variance(weight=2.0)(model, puzzles(), torch.Generator())
    assert float(losses["together"]) == 0
    assert float(losses["loss"]) == 2


def test_all_neighbours_are_of_the_image_if_each_image_is_a_point() -> None:
    batch = puzzles()
    points = torch.eye(3)[torch.arange(3).repeat_interleave(16)].expand(len(batch), -1, -1)
    assert Neighbourhood().score(points, batch)["share"].tolist() == [1, 1]
