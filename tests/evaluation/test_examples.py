"""What is kept of a puzzle, against the store it comes from and the scores of the same puzzles."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from fragrecon.clustering.backends import BACKENDS
from fragrecon.data.puzzles import cut
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol, evaluate
from fragrecon.evaluation.clustering.reassembly import agreement
from fragrecon.evaluation.clustering.scoring import methods_of
from fragrecon.evaluation.examples import Example, arrays_of, example_of, first_examples
from fragrecon.models.base import FragmentModel
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.mosaic import Mosaic
from tests.evaluation.samples import CPU, Pictures, data_of, puzzles

PROTOCOL = ClusteringProtocol(BACKENDS["batched"], 3, 0, 32 * 2**20)


def conv(shape: tuple[int, int, int] = (3, 8, 8)) -> FragmentModel:
    torch.manual_seed(0)
    return ConvAutoencoder(shape, 6, [4]).eval()


def mosaic(grid: tuple[int, int]) -> FragmentModel:
    torch.manual_seed(0)
    return Mosaic((3, 8, 8), grid, 8, 16, 1, 2).eval()


class Constant(FragmentModel):
    """Has one embedding for all."""

    def __init__(self) -> None:
        super().__init__((3, 8, 8), 4)
        self.value = nn.Parameter(torch.ones(4))

    def embed(self, fragments: Tensor) -> Tensor:
        return self.value.expand(len(fragments), -1)


def test_examples_are_the_first_puzzles_as_they_are_scored(tmp_path: Path) -> None:
    data, model = data_of(tmp_path), conv()
    test = data.test_set(10)
    examples = first_examples(model, test, data.grid, PROTOCOL, CPU)
    assert len(examples) == 8
    scores = evaluate(
        test,
        {"model": lambda batch: PROTOCOL.score_fully(model.encode(batch.fragments), batch)},
        batch_size=4,
        device=CPU,
    )["model"]
    for number, example in enumerate(examples):
        batch = test.read(slice(number, number + 1))
        assert torch.equal(example.batch.source_ids, batch.source_ids)
        assert torch.equal(example.batch.fragments, batch.fragments.float() / 255)
        found = adjusted_rand_score(batch.source_ids[0], example.groups[0])
        assert found == pytest.approx(scores["kmeans_ari"][number], abs=1e-9)
        share = example.confusion.diagonal().sum() / example.confusion.sum()
        assert float(share) == pytest.approx(scores["kmeans_accuracy"][number], abs=1e-9)
        with torch.inference_mode():
            torch.testing.assert_close(example.embeddings, model.encode(example.batch.fragments))
    assert len(first_examples(model, data.test_set(3), data.grid, PROTOCOL, CPU)) == 3


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 24)])
def test_arrays_hold_the_images_of_the_store_and_where_fragments_come_from(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    data = data_of(tmp_path, Pictures(shape))
    test = data.test_set(3)
    arrays = arrays_of(first_examples(conv((shape[0], 8, 8)), test, data.grid, PROTOCOL, CPU))
    assert set(arrays) == {"images", "grid", "source_ids", "positions", "groups"}
    assert arrays["images"].dtype == np.uint8
    assert arrays["grid"].tolist() == [shape[1] // 8, shape[2] // 8]
    batch = test.read(slice(0, 3))
    np.testing.assert_array_equal(arrays["images"], data.store("test").images[batch.image_ids.numpy()])
    for puzzle, images in enumerate(arrays["images"]):
        tiles = cut(torch.from_numpy(images), (8, 8))
        own = tiles[arrays["source_ids"][puzzle], arrays["positions"][puzzle]]
        assert torch.equal(own, batch.fragments[puzzle])


def test_what_a_decoder_makes_is_kept_in_the_order_of_the_fragments(tmp_path: Path) -> None:
    data, model = data_of(tmp_path), conv()
    (example,) = first_examples(model, data.test_set(1), data.grid, PROTOCOL, CPU)
    assert example.decoded is not None
    assert isinstance(model, ConvAutoencoder)
    with torch.inference_mode():
        expected = model.decode(model.embed(example.batch.fragments[0]))
    torch.testing.assert_close(example.decoded[0], expected)
    rows, columns = data.grid
    for image, (row, column) in itertools.product(range(4), itertools.product(range(rows), range(columns))):
        here = (example.batch.source_ids[0] == image) & (example.batch.positions[0] == row * columns + column)
        tile = example.in_place(example.decoded)[image, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        torch.testing.assert_close(tile, expected[here][0])


def test_a_model_that_puts_puzzles_together_says_where_fragments_went(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    model = mosaic(data.grid)
    test = data.test_set(3)
    arrays = arrays_of(first_examples(model, test, data.grid, PROTOCOL, CPU))
    images, cells = arrays["rebuilt_images"], arrays["rebuilt_cells"]
    assert images.shape == cells.shape == (3, 64)
    for puzzle in range(3):
        assert sorted(images[puzzle] * 16 + cells[puzzle]) == list(range(64))
    scores = evaluate(test, methods_of(model, PROTOCOL, data.grid), batch_size=1, device=CPU)["model"]
    for number, example in enumerate(first_examples(model, test, data.grid, PROTOCOL, CPU)):
        assert example.placement is not None
        assert example.decoded is None
        for metric, score in agreement(example.placement, example.batch, data.grid).items():
            assert float(score) == pytest.approx(scores[f"reassembly_{metric}"][number], abs=1e-9), metric


def test_a_model_of_another_grid_only_groups(tmp_path: Path) -> None:
    data = data_of(tmp_path)
    (example,) = first_examples(mosaic((2, 2)), data.test_set(1), data.grid, PROTOCOL, CPU)
    assert example.placement is None
    assert set(arrays_of([example])) == {"images", "grid", "source_ids", "positions", "groups"}


def confusion_of(groups: Any, sources: Any, images: int) -> np.ndarray:
    batch = puzzles(1, images, len(sources) // images)
    batch.source_ids = torch.tensor([sources])
    return Example(batch, (1, 1), torch.zeros(1, len(sources), 1), torch.tensor([groups])).confusion.numpy()


@pytest.mark.parametrize("seed", range(2))
def test_the_confusion_is_that_of_the_best_way_to_give_groups_to_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    sources = random.permutation(np.repeat(np.arange(4), 6)).tolist()
    groups = [source if random.random() < 0.5 else int(random.integers(4)) for source in sources]
    table = np.zeros((4, 4))
    for source, group in zip(sources, groups, strict=True):
        table[source, group] += 1
    best = max(sum(table[image, order[image]] for image in range(4)) for order in itertools.permutations(range(4)))
    found = confusion_of(groups, sources, 4)
    assert np.trace(found) == best
    assert sorted(map(tuple, found.T)) == sorted(map(tuple, table.T))
    renamed = [(3, 1, 0, 2)[group] for group in groups]
    assert np.trace(confusion_of(renamed, sources, 4)) == best


def test_groups_that_were_not_found_are_empty(tmp_path: Path) -> None:
    assert confusion_of([0] * 6, [0, 0, 1, 1, 2, 2], 3).sum(0).tolist().count(0) == 2
    data = data_of(tmp_path)
    batch = data.test_set(1).read(slice(0, 1)).as_float()
    example = example_of(Constant().eval(), batch, data.grid, PROTOCOL)
    assert example.confusion.shape == (4, 4)
    assert example.confusion.sum() == 64
