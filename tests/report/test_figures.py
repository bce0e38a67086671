"""The picture of a puzzle, looked at by its pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.report import figures


def puzzle(images: int, channels: int = 3) -> FragmentBatch:
    """Images of one plain colour each, cut into 2x2 and shuffled."""
    levels = torch.linspace(20, 235, images).to(torch.uint8)
    pixels = levels.view(1, images, 1, 1, 1).expand(1, images, channels, 8, 8).contiguous()
    order = torch.randperm(images * 4, generator=torch.Generator().manual_seed(0)).unsqueeze(0)
    ids = torch.arange(images).unsqueeze(0)
    return make_batch(pixels, torch.zeros_like(ids), ids, order, (4, 4))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_panel_shows_every_fragment_in_its_colour(tmp_path: Path, channels: int) -> None:
    batch = puzzle(5, channels)
    figure = figures.puzzle_figure(batch, batch.source_ids, (2, 2), "perfect")
    figures.save(figure, tmp_path / "puzzle.png")
    shown = np.asarray(Image.open(tmp_path / "puzzle.png").convert("L"))
    for level in np.linspace(20, 235, 5).astype(np.uint8):
        assert (np.abs(shown.astype(int) - int(level)) <= 1).sum() > 500


def test_a_perfect_grouping_marks_no_fragment_and_a_wrong_one_marks_the_strangers() -> None:
    batch = puzzle(4)
    perfect = figures.puzzle_figure(batch, batch.source_ids, (2, 2), "perfect")
    one_wrong = batch.source_ids.clone()
    stranger = int(torch.nonzero(one_wrong[0] == 1)[0])
    one_wrong[0, stranger] = 2
    wrong = figures.puzzle_figure(batch, one_wrong, (2, 2), "one wrong")
    boxed = [[text.get_text() for text in f.axes[2].texts if text.get_bbox_patch()] for f in (perfect, wrong)]
    assert boxed == [[], ["B"]]


def test_more_or_fewer_groups_than_images_can_be_drawn(tmp_path: Path) -> None:
    batch = puzzle(30)
    for groups in (torch.zeros_like(batch.source_ids), torch.arange(120).unsqueeze(0) % 30):
        figures.save(figures.puzzle_figure(batch, groups, (2, 2), "odd"), tmp_path / "puzzle.png")
        with Image.open(tmp_path / "puzzle.png") as picture:
            assert min(picture.size) > 100
