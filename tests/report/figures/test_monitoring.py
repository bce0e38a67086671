from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from fragrecon.clustering.backends import BACKENDS
from fragrecon.data.puzzles import FragmentBatch, in_place
from fragrecon.evaluation.clustering.protocol import ClusteringProtocol
from fragrecon.models.base import FragmentModel
from fragrecon.models.mae import MaskedAutoencoder
from fragrecon.report.figures import monitoring
from fragrecon.report.figures.plotting import colours
from fragrecon.run import compose
from tests.training.test_learner import TINY, Trainable

GRID = (2, 2)
SIDE, STEP = 32 + 2 * monitoring.THICK, 32 + 2 * monitoring.THICK + 2
"""Of a fragment of 8 pixels with the room for its frame, and from one to the next."""


def puzzle(images: int = 3, channels: int = 3, seed: int = 0) -> FragmentBatch:
    """A puzzle of plain fragments: the one of image i and cell c has the value (4 i + c + 1) / 64 all over."""
    order = torch.randperm(4 * images, generator=torch.Generator().manual_seed(seed))
    values = (order + 1).view(1, -1, 1, 1, 1) / 64
    return FragmentBatch(
        fragments=values.expand(-1, -1, channels, 8, 8).clone(),
        source_ids=(order // 4).unsqueeze(0),
        positions=(order % 4).unsqueeze(0),
        rotations=torch.zeros(1, 4 * images, dtype=torch.long),
        labels=torch.zeros(1, 4 * images, dtype=torch.long),
        image_ids=torch.arange(images).unsqueeze(0) + 100,
    )


def read(picture: Tensor, images: int) -> list[list[tuple[int, int, int] | None]]:
    """What lies at each place of a puzzle's picture: fragment (4 i + c), the image of its frame's colour, and how thick
    that is.
    """
    named = {tuple(round(part * 255) for part in colour): image for image, colour in enumerate(colours(images))}
    rows, columns = (picture.shape[1] - 2) // STEP, (picture.shape[2] - 2) // STEP
    assert picture.shape == (3, rows * STEP + 2, columns * STEP + 2)
    lines = []
    for row in range(rows):
        line: list[tuple[int, int, int] | None] = []
        for column in range(columns):
            top, left = 2 + row * STEP, 2 + column * STEP
            tile = picture[:, top : top + SIDE, left : left + SIDE]
            middle = tile[:, SIDE // 2, SIDE // 2].tolist()
            if middle == [255] * 3:
                assert (tile == 255).all()
                line.append(None)
                continue
            assert len(set(middle)) == 1
            fragment = round(middle[0] / 255 * 64) - 1
            inked = [tuple(pixel) for pixel in tile[:, SIDE // 2, : monitoring.THICK].T.tolist()]
            colour = inked[-1]
            line.append((fragment, named[colour], inked.count(colour)))
        lines.append(line)
    return lines


def test_a_puzzle_grouped_right_is_two_times_the_same_with_thin_frames_only() -> None:
    batch = puzzle()
    groups = torch.tensor([2, 0, 1])[batch.source_ids]  # whatever the groups are called
    for row, line in enumerate(read(monitoring.puzzle_picture(batch, groups, GRID), 3)):
        own = [(4 * row + cell, row, monitoring.THIN) for cell in range(4)]
        assert line == [*own, None, *own, None, None]


def test_a_fragment_in_the_wrong_group_lies_last_in_a_thick_frame_of_its_own_images_colour() -> None:
    batch = puzzle()
    groups = batch.source_ids.clone()
    members = (batch.source_ids * 4 + batch.positions)[0]
    groups[0, members == 1] = 2  # cell 1 of image 0 goes to image 2
    lines = read(monitoring.puzzle_picture(batch, groups, GRID), 3)
    assert [line[:4] for line in lines] == [[(4 * i + c, i, monitoring.THIN) for c in range(4)] for i in range(3)]
    assert lines[0][5:] == [(0, 0, monitoring.THIN), (2, 0, monitoring.THIN), (3, 0, monitoring.THIN), None, None, None]
    assert lines[2][5:] == [*((8 + c, 2, monitoring.THIN) for c in range(4)), (1, 0, monitoring.THICK), None]


def test_a_group_that_is_too_long_for_a_line_goes_on_in_the_next() -> None:
    batch = puzzle()
    lines = read(monitoring.puzzle_picture(batch, torch.zeros_like(batch.source_ids), GRID), 3)
    assert len(lines) == 4  # twelve fragments in lines of six, and two images without a group
    first = next(row for row, line in enumerate(lines) if line[5] is not None)
    image = sum(line[0] is not None for line in lines[: first + 1]) - 1
    shown = [place for line in lines[first : first + 2] for place in line[5:]]
    assert shown[:4] == [(4 * image + cell, image, monitoring.THIN) for cell in range(4)]
    assert {place[0] for place in shown if place} == set(range(12))
    assert all(place and place[2] == monitoring.THICK and place[1] == place[0] // 4 for place in shown[4:])
    assert sum(line[5] is not None for line in lines) == 2
    assert lines[first + 1][:4] == [None] * 4


def test_as_many_fragments_as_can_be_are_in_the_row_of_their_image() -> None:
    batch = puzzle(images=4, seed=3)
    groups = torch.randint(4, batch.source_ids.shape, generator=torch.Generator().manual_seed(1))
    given = monitoring.image_of_group(batch, groups)
    assert sorted(given.tolist()) == [0, 1, 2, 3]
    right = int((given[groups] == batch.source_ids).sum())
    from itertools import permutations

    assert right == max(int((torch.tensor(p)[groups] == batch.source_ids).sum()) for p in permutations(range(4)))


def test_reconstructions_lie_under_their_originals() -> None:
    batch = puzzle(images=12)
    decoded = 1 - batch.fragments
    picture = monitoring.columns_picture(*(in_place(some, batch, GRID) for some in (batch.fragments, decoded)))
    side, step = 96, 96 + 6  # an image of 16 pixels, six times as large
    assert picture.shape == (3, 2 * (2 * side + 6) + 6, 10 * step + 6)
    for image in range(12):
        top, left = 6 + image // 10 * (2 * side + 6), 6 + image % 10 * step
        for cell in range(4):
            down, across = top + cell // 2 * side // 2, left + cell % 2 * side // 2
            shown = picture[:, down : down + side // 2, across : across + side // 2]
            below = picture[:, down + side : down + side + side // 2, across : across + side // 2]
            value = (4 * image + cell + 1) / 64
            assert (shown == round(value * 255)).all()
            assert (below == round((1 - value) * 255)).all()


def test_samples_are_decoded_of_the_same_standard_normal_numbers_every_time() -> None:
    shape, asked = (3, 8, 8), []

    class Noting(Seeing):
        def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
            asked.append(latents)
            return super().decode(latents.sigmoid(), size)

    one = monitoring.pictures_of(Noting(shape, 192), puzzle(), GRID, None)["samples"]
    torch.rand(1)  # whatever else draws
    assert torch.equal(one, monitoring.pictures_of(Noting(shape, 192), puzzle(seed=1), GRID, None)["samples"])
    latents = asked[1]
    assert latents.shape == (20, 192)
    assert stats.kstest(latents.flatten().numpy(), "norm").pvalue > 1e-3
    assert len(torch.unique(latents)) > 3800
    side, step = 96, 96 + 6  # a fragment of 8 pixels, twelve times as large
    assert one.shape == (3, 2 * step + 6, 10 * step + 6)
    for number in range(20):
        top, left = 6 + number // 10 * step, 6 + number % 10 * step
        tile = one[:, top : top + side : 12, left : left + side : 12]
        assert torch.equal(tile, (latents[number].sigmoid() * 255).round().to(torch.uint8).view(shape))


@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_laid_out_in_a_square_and_pixels_stay_in_range(channels: int) -> None:
    shown = torch.linspace(-0.5, 1.5, 5).view(5, 1, 1, 1).expand(-1, channels, 64, 64)
    picture = monitoring.view_picture(shown)
    assert picture.shape == (3, 2 * 68 + 4, 3 * 68 + 4)
    corners = [(4, 4), (4, 72), (4, 140), (72, 4), (72, 72), (72, 140)]
    assert [picture[:, y, x].tolist() for y, x in corners] == [[v] * 3 for v in (0, 0, 128, 255, 255, 255)]
    assert monitoring.view_picture(shown.repeat(20, 1, 1, 1)).shape == (3, 8 * 68 + 4, 8 * 68 + 4)
    assert monitoring.view_picture(shown, 128).shape == (3, 2 * 132 + 4, 3 * 132 + 4)
    assert monitoring.view_picture(shown[..., :8, :]).shape == (3, 5 * 68 + 4, 512 + 8)  # wide ones one above the other


class Plain(FragmentModel):
    """Embeds by all pixels as they are; decodes nothing."""

    def embed(self, fragments: Tensor) -> Tensor:
        return fragments.flatten(1)


class Seeing(Plain):
    def decode(self, latents: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        return latents.view(*latents.shape[:-1], *self.fragment_shape)

    def views(self, fragments: Tensor) -> dict[str, Tensor]:
        return {"edges": fragments[0, :4], "more": fragments[0, :1]}


def test_a_model_shows_what_it_can_show() -> None:
    batch, shape = puzzle(), (3, 8, 8)
    protocol = ClusteringProtocol(BACKENDS["batched"], 2, 0, 2**26)
    assert set(monitoring.pictures_of(Plain(shape, 192), batch, GRID, protocol)) == {"puzzle"}
    found = monitoring.pictures_of(Seeing(shape, 192), batch, GRID, protocol)
    assert set(found) == {"puzzle", "reconstructions", "samples", "edges", "more"}
    alone = monitoring.pictures_of(Seeing(shape, 192), batch, GRID, None)
    assert set(alone) == {"reconstructions", "samples", "edges", "more"}
    assert torch.equal(found["edges"], monitoring.view_picture(batch.fragments[0, :4]))
    # Embeddings that are the pixels decode to the pixels.
    images = in_place(batch.fragments, batch, GRID)
    assert torch.equal(found["reconstructions"], monitoring.columns_picture(images, images))
    # Plain fragments of like value are neighbours, so that KMeans finds the images.
    assert all(place is None or place[1] == place[0] // 4 for line in read(found["puzzle"], 3) for place in line)


def test_what_is_filled_in_lies_between_what_was_visible_and_the_images() -> None:
    torch.manual_seed(0)
    batch, shape = puzzle(images=4), (3, 8, 8)
    model = MaskedAutoencoder(shape, 8, 2, 1, 2, 8, 1, 2).eval()
    found = monitoring.pictures_of(model, batch, GRID, None)
    assert set(found) == {"masked", "attention"}
    picture, side = found["masked"], 96  # a fragment of 8 pixels, twelve times as large
    assert picture.shape == (3, 3 * side + 12, 10 * (side + 6) + 6)
    for column in range(10):
        left = 6 + column * (side + 6)
        parts = picture[:, 6 : 6 + 3 * side, left : left + side].reshape(3, 3, side, side)[:, :, ::12, ::12]
        seen, composite, image = parts.unbind(1)
        assert torch.equal(image, (batch.fragments[0, column] * 255).round().to(torch.uint8))
        hidden = (seen == 217) | (seen == 102)  # the greys of the hatch
        patches = hidden.unfold(1, 2, 2).unfold(2, 2, 2).flatten(-2)
        assert int((patches.all(-1)).all(0).sum()) == 12  # of 16
        assert torch.equal(composite[~hidden], image[~hidden])
        assert not torch.equal(composite[hidden], image[hidden])


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Trainable:
    cache = tmp_path_factory.mktemp("cache")
    return Trainable(compose([*TINY, f"data.cache_dir={cache}", "model=pca", "model.latent_dim=8"]))


def test_embeddings_come_with_thumbnails_and_what_is_known_of_each(given: Trainable) -> None:
    puzzles = given.data.validation_set()
    found = monitoring.embedded(given.model.eval(), puzzles, torch.device("cpu"))
    assert found.embeddings.shape == (3 * 12, 8)
    batch = puzzles.read(slice(0, 3)).as_float()
    with torch.no_grad():
        torch.testing.assert_close(found.embeddings, given.model.encode(batch.fragments).flatten(0, 1))
    assert torch.equal(found.thumbnails, (batch.fragments.flatten(0, 1) * 255).round().to(torch.uint8))
    images = given.data.store("train").images
    assert list(found.facts) == ["image", "class", "puzzle", "cell"]
    for row in range(36):
        image, cell = (int(found.facts[name][row].split()[1]) for name in ("image", "cell"))
        top, left = cell // 2 * 16, cell % 2 * 16
        np.testing.assert_array_equal(found.thumbnails[row], images[image][:, top : top + 16, left : left + 16])
        assert found.facts["class"][row] == f"class {given.data.store('train').labels[image]}"
        assert found.facts["puzzle"][row] == f"puzzle {row // 12}"


def test_long_embeddings_keep_their_distances_in_fewer_numbers(
    given: Trainable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitoring, "ROWS", 30)
    plain = Plain((3, 16, 16), 768)
    found = monitoring.embedded(plain, given.data.validation_set(), torch.device("cpu"))
    pixels = given.data.validation_set().read(slice(0, 3)).as_float().fragments.flatten(0, 1).flatten(1)[:30]
    assert found.embeddings.shape == (30, 30)  # thirty points lie in as many dimensions
    assert len(found.thumbnails) == len(found.facts["cell"]) == 30
    apart = [torch.cdist(points.double(), points.double()) for points in (found.embeddings, pixels)]
    torch.testing.assert_close(*apart, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(monitoring, "DIMENSIONS", 5)
    fewer = monitoring.embedded(plain, given.data.validation_set(), torch.device("cpu")).embeddings
    assert fewer.shape == (30, 5)
    centred = (pixels - pixels.mean(0)).double()
    strongest = torch.linalg.eigvalsh(centred.T @ centred).flip(0)[:5]
    torch.testing.assert_close((fewer.double() ** 2).sum(0), strongest, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("size", "side"), [((8, 16), 16), ((16, 8), 16), ((32, 32), 32)])
def test_thumbnails_are_squares_with_the_fragment_whole(size: tuple[int, int], side: int, tmp_path: Path) -> None:
    overrides = [*TINY, f"data.cache_dir={tmp_path}", f"data.fragment_size=[{size[0]},{size[1]}]"]
    trainable = Trainable(compose([*overrides, "model=pca", "model.latent_dim=4", "evaluation.clustering=false"]))
    found = monitoring.embedded(trainable.model.eval(), trainable.data.validation_set(), torch.device("cpu"))
    assert found.thumbnails.shape[1:] == (3, side, side)
    first = trainable.data.validation_set().read(slice(0, 1)).fragments[0, 0]
    assert torch.equal(found.thumbnails[0, :, : size[0], : size[1]], first)
    assert (found.thumbnails[0, :, size[0] :] == 255).all()
    assert (found.thumbnails[0, :, :, size[1] :] == 255).all()


def test_large_fragments_have_small_thumbnails() -> None:
    shown = monitoring._thumbnails(torch.full((2, 1, 200, 100), 0.2))
    assert shown.shape == (2, 3, monitoring.THUMBNAIL, monitoring.THUMBNAIL)
    assert (shown[:, :, 10, 10] == 51).all()
