from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from fragrecon.data.adjacency import meeting_sides, neighbours
from fragrecon.data.puzzles import draw_orders
from fragrecon.models.base import Solution
from fragrecon.reassembly.solve import agreeing

GRID, COUNT = (2, 3), 12


def puzzles(logit: float = 20.0) -> tuple[Solution, torch.Tensor, torch.Tensor]:
    """Three puzzles of two images whose sides are known, but whose rotations are not; the images and rotations."""
    random = np.random.default_rng(0)
    orders = torch.from_numpy(draw_orders(3, COUNT, random))
    rotations = torch.from_numpy(random.integers(0, 4, (3, COUNT)))
    sides = torch.zeros(3, COUNT, 4, 4 * COUNT + 1)
    met = meeting_sides(neighbours(orders // 6, orders % 6, GRID, 2), rotations)
    sides.scatter_(3, met.unsqueeze(-1), logit)
    made = Solution(torch.zeros(3, COUNT, 2), torch.zeros(3, COUNT, 6), sides, torch.zeros(3, COUNT, 4))
    return made, orders // 6, rotations


def test_one_fragment_whose_rotation_is_known_tells_those_of_its_image() -> None:
    made, images, rotations = puzzles()
    assert made.rotations is not None
    for image in range(2):
        known = (images == image).int().argmax(1)
        rows = torch.arange(3)
        made.rotations[rows, known, rotations[rows, known]] = 1.0
    assert torch.equal(agreeing(made, images).quarter_turns(), rotations)


def test_a_fragment_is_outvoted_by_those_of_its_image_and_not_by_those_of_another() -> None:
    made, images, rotations = puzzles()
    right = replace(made, rotations=2.0 * torch.nn.functional.one_hot(rotations, 4))
    assert right.rotations is not None
    right.rotations[:, 5] = right.rotations[:, 5].roll(1, -1)
    assert torch.equal(agreeing(right, images).quarter_turns(), rotations)
    wrong = replace(right, rotations=torch.where((images == 0).unsqueeze(-1), right.rotations, torch.eye(4)[0] * 50))
    assert torch.equal(agreeing(wrong, images).quarter_turns()[images == 0], rotations[images == 0])


def test_images_do_not_depend_on_each_other_and_may_be_of_any_size() -> None:
    made, _, _ = puzzles()
    random = torch.Generator().manual_seed(0)
    itself = torch.nn.functional.pad(torch.eye(COUNT, dtype=torch.bool).repeat(1, 4), (0, 1)).unsqueeze(1)
    sides = 3 * torch.randn(made.sides.shape, generator=random).masked_fill(itself, -torch.inf)
    noisy = replace(made, sides=sides, rotations=torch.randn(3, COUNT, 4, generator=random))
    groups = torch.tensor([2, 0, 1, 1, 0, 1, 3, 1, 0, 1, 0, 0]).expand(3, -1)  # 5, 5, 1 and 1 fragments
    whole = agreeing(noisy, groups).rotations
    assert whole is not None
    for group in range(4):
        # Each of the others is an image of its own.
        apart = torch.where(groups == group, 0, torch.arange(1, COUNT + 1))
        alone = agreeing(noisy, apart).rotations
        assert alone is not None
        torch.testing.assert_close(whole[groups == group], alone[groups == group], rtol=1e-4, atol=1e-4)


def test_fragments_that_meet_none_keep_their_own_rotations() -> None:
    made, images, _ = puzzles(logit=0.0)
    random = torch.rand(3, COUNT, 4, generator=torch.Generator().manual_seed(0))
    alone = replace(made, rotations=random)
    assert torch.equal(agreeing(alone, images).quarter_turns(), alone.quarter_turns())


def test_upright_fragments_stay_upright() -> None:
    made, images, _ = puzzles()
    upright = replace(made, rotations=None)
    assert agreeing(upright, images) is upright
