from __future__ import annotations

import itertools
import logging
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fragrecon import files
from fragrecon.clustering.balanced import balanced_kmeans
from fragrecon.data.readers.images import decode, size_of
from fragrecon.errors import ConfigError, DataError
from fragrecon.jobs.reassemble import cut_puzzle
from fragrecon.models.base import Solver
from fragrecon.reassembly.clues import all_clues
from fragrecon.report.figures.plotting import colours
from fragrecon.report.figures.tiles import LINE, PAPER
from fragrecon.runs.read import load_run
from fragrecon.runs.write import LOCK
from fragrecon.seeds import keys_of
from tests.cli import Cli, fingerprint, job, metrics, names, read_json, status
from tests.jobs.reassembled import CHINA, FLOWER, TINY, Pixels, pixels_of, reassembled
from tests.reassembly.samples import slow_gain

pytestmark = pytest.mark.timeout(180)
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """One of grey images that are cut into two rows of three."""
    folder = tmp_path_factory.mktemp("grey") / "run"
    given = ["data.image_size=[24,36]", "data.fragment_size=12", "data.channels=1", "data.images_per_puzzle=4"]
    job(folder, cache, *TINY, *given, "evaluation.validation_puzzles=2")
    return folder


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for path in (CHINA, FLOWER):
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory, cache: Path, mosaic: Path) -> Path:
    """The record of both photographs, cut and put together again; only to be read."""
    folder = tmp_path_factory.mktemp("rebuilt") / "run"
    reassemble(folder, cache, mosaic, CHINA.parent)
    return folder


def reassemble(folder: Path, cache: Path, run: Path, given: Path | Sequence[Path], *more: str) -> dict[str, Any]:
    named = given if isinstance(given, Path) else f"[{','.join(map(str, given))}]"
    return reassembled(folder, cache, f"run={run}", f"input={named}", *more)


def resized(path: Path, height: int, width: int, mode: str = "RGB") -> Image.Image:
    with Image.open(path) as file:
        found: Image.Image = file.convert(mode).resize((width, height), Image.Resampling.BOX)
    return found


def write_fragments(folder: Path, image: Pixels, size: int, first: int = 0) -> list[Path]:
    """Cut an image into files, row by row."""
    folder.mkdir(exist_ok=True)
    found = []
    corners = itertools.product(range(0, len(image), size), range(0, image.shape[1], size))
    for number, (top, left) in enumerate(corners, first):
        found.append(folder / f"{number:03d}.png")
        tile = image[top : top + size, left : left + size]
        Image.fromarray(tile[..., 0] if tile.shape[-1] == 1 else tile).save(found[-1])
    return found


def loose_photographs(folder: Path, size: int = 16) -> list[Path]:
    """Both photographs in 32 files, in no order."""
    images = [np.asarray(resized(path, 4 * size, 4 * size)) for path in (CHINA, FLOWER)]
    files = [file for n, image in enumerate(images) for file in write_fragments(folder, image, size, 16 * n)]
    return [files[place] for place in np.random.default_rng(0).permutation(32)]


def grained(image: Pixels) -> Pixels:
    """An image of twice the size, the means of whose squares of four pixels are exactly those of this one."""
    large = image.repeat(2, 0).repeat(2, 1).astype(int)
    most = np.minimum(large, 255 - large)
    most[::2, ::2] *= -1
    most[1::2, 1::2] *= -1
    found: Pixels = (large + most).astype(np.uint8)
    return found


def place_of(row: dict[str, Any], grid: Sequence[int]) -> tuple[int, int]:
    return row["image"], row["cell"][0] * grid[1] + row["cell"][1]


def assert_placed(found: dict[str, Any], fragments: int) -> None:
    """Every fragment once, at a place of its own, inside of the images."""
    rows, grid = found["fragments"], found["grid"]
    assert [row["fragment"] for row in rows] == list(range(fragments))
    assert len({place_of(row, grid) for row in rows}) == fragments
    for row in rows:
        assert 0 <= row["image"] < found["images"]
        assert all(0 <= at < side for at, side in zip(row["cell"], grid, strict=True))


def tile(image: Pixels, cell: Sequence[int], height: int, width: int) -> Pixels:
    found: Pixels = image[cell[0] * height : (cell[0] + 1) * height, cell[1] * width : (cell[1] + 1) * width]
    return found


def image_names(count: int) -> list[str]:
    return [f"{number}.png" for number in range(count)]


# Photographs ----------------------------------------------------------------------------------------------------------


def test_photographs_are_cut_shuffled_and_rebuilt_from_the_command_line(
    tmp_path: Path, cache: Path, mosaic: Path, photographs: Path
) -> None:
    before = fingerprint(mosaic) | fingerprint(photographs)
    result = Cli(tmp_path, cache).here("mode=reassemble", f"run={mosaic}", f"input={photographs}").ok()
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert folder.name.endswith("-reassemble")
    found = read_json(folder / "placement.json")
    scores = found["scores"]
    told = (
        f"32 fragments were assigned to 2 images: {scores['direct']:.1%} at the correct cell, "
        f"{scores['neighbours']:.1%} of pairs adjacent again, {scores['perfect']:.1%} of images without an error"
    )
    assert told in result.stdout
    assert f"record: {folder}" in result.stdout
    assert "loose=true" in result.stdout + result.stderr
    assert fingerprint(mosaic) | fingerprint(photographs) == before
    assert status(folder)["status"] == "done"
    figures = [str(Path("figures") / f"{name}.png") for name in ("groups", "rebuilt", "shuffled")]
    kept = ["config.yaml", "overrides.yaml", "placement.json", "run.log", "status.json"]
    pictures = [str(Path("images") / name) for name in image_names(2)]
    assert sorted({*names(folder)} - {LOCK}) == sorted([*figures, *kept, *pictures, "figures", "images"])
    saved = load_run(folder).config
    assert (saved.mode, saved.run, saved.input) == ("reassemble", str(mosaic), str(photographs))
    assert_placed(found, 32)
    assert {row["file"] for row in found["fragments"]} == {str(path) for path in photographs.iterdir()}
    assert len({(row["file"], *row["cut_from"]) for row in found["fragments"]}) == 32


def slow_scores(found: dict[str, Any]) -> dict[str, float]:
    """Of the best way to take rebuilt images for the true ones."""
    rows, (height, width) = found["fragments"], found["grid"]
    sources = sorted({row["file"] for row in rows})
    best: dict[str, int] = {}
    for order in itertools.permutations(range(len(sources))):
        right = dict.fromkeys(sources, 0)
        for row in rows:
            right[row["file"]] += row["image"] == order[sources.index(row["file"])] and row["cell"] == row["cut_from"]
        best = max(best, right, key=lambda counts: sum(counts.values()))
    true = {(row["file"], *row["cut_from"]): row for row in rows}
    seams, closed = 0, 0
    for (file, down, across), row in true.items():
        for step in ((0, 1), (1, 0)):
            other = true.get((file, down + step[0], across + step[1]))
            if other:
                seams += 1
                beside = [row["cell"][0] + step[0], row["cell"][1] + step[1]]
                closed += other["image"] == row["image"] and other["cell"] == beside
    return {
        "direct": sum(best.values()) / len(rows),
        "neighbours": closed / seams,
        "perfect": sum(count == height * width for count in best.values()) / len(sources),
    }


def test_the_scores_are_those_of_a_slow_loop_over_the_placement(
    tmp_path: Path, cache: Path, mosaic: Path, rebuilt: Path
) -> None:
    first, other = read_json(rebuilt / "placement.json"), reassemble(tmp_path, cache, mosaic, CHINA.parent, "seed=1")
    for found in (first, other):
        assert found["scores"] == pytest.approx(slow_scores(found), abs=1e-12)
        assert 0 < found["scores"]["neighbours"] < 1
    assert [row["cut_from"] for row in first["fragments"]] != [row["cut_from"] for row in other["fragments"]]


def test_the_pictures_show_what_the_placement_says(rebuilt: Path) -> None:
    found = read_json(rebuilt / "placement.json")
    # Six times the size that the model sees, as far as the height of 427 pixels reaches.
    side, size, line = 6 * 16, 6 * 64, 9
    originals = {str(path): decode(path, (3, size, size)).transpose(1, 2, 0) for path in (CHINA, FLOWER)}
    images = [pixels_of(rebuilt / "images" / name) for name in image_names(2)]
    shuffled, groups, beside = (
        pixels_of(rebuilt / "figures" / f"{name}.png") for name in ("shuffled", "groups", "rebuilt")
    )
    hues = [[round(255 * value) for value in colour] for colour in colours(2)]
    assert [image.shape for image in images] == [(size, size, 3)] * 2
    wide = side + 2 * line
    assert shuffled.shape == (6 * (side + line) + line, 6 * (side + line) + line, 3)
    assert groups.shape == (6 * (wide + line) + line, 6 * (wide + line) + line, 3)
    image_by_image = sorted(range(len(found["fragments"])), key=lambda number: found["fragments"][number]["image"])
    for number, row in enumerate(found["fragments"]):
        own = tile(originals[row["file"]], row["cut_from"], side, side)
        np.testing.assert_array_equal(tile(images[row["image"]], row["cell"], side, side), own)
        down, across = divmod(number, 6)
        top, left = line + down * (side + line), line + across * (side + line)
        np.testing.assert_array_equal(shuffled[top : top + side, left : left + side], own)
        down, across = divmod(image_by_image.index(number), 6)
        top, left = line + down * (wide + line), line + across * (wide + line)
        framed = groups[top : top + wide, left : left + wide]
        np.testing.assert_array_equal(framed[line:-line, line:-line], own)
        assert framed[0, 0].tolist() == framed[-1, -1].tolist() == hues[row["image"]]
    check_rebuilt(found, beside, originals, images, side, line)


def check_rebuilt(
    found: dict[str, Any],
    picture: Pixels,
    originals: dict[str, Pixels],
    images: Sequence[Pixels],
    side: int,
    gap: int,
) -> None:
    """Pairs of an original and what was rebuilt of it, in which wrong fragments alone have a red frame."""
    size, label = images[0].shape[0], max(LINE, images[0].shape[1] // 10)
    sources = list(dict.fromkeys(sorted(row["file"] for row in found["fragments"])))
    right = {n: {s: set[tuple[int, ...]]() for s in sources} for n in range(len(images))}
    held = Counter((row["image"], row["file"]) for row in found["fragments"])
    for row in found["fragments"]:
        if row["cell"] == row["cut_from"]:
            right[row["image"]][row["file"]].add(tuple(row["cell"]))
    counts: list[Callable[[int, str], int]] = [lambda n, s: len(right[n][s]), lambda n, s: held[n, s]]
    taken = max(
        itertools.permutations(range(len(images))),
        key=lambda order: [sum(count(n, s) for n, s in zip(order, sources, strict=True)) for count in counts],
    )
    wrong = 0
    for place, (number, source) in enumerate(zip(taken, sources, strict=True)):
        down, across = divmod(2 * place, (picture.shape[1] - gap) // (size + gap))
        top, left = label + gap + down * (label + size + gap), gap + across * (size + gap)
        np.testing.assert_array_equal(picture[top : top + size, left : left + size], originals[source])
        assert picture[top - label : top, left : left + size].min() < 100, "a label"
        left += size + gap
        shown = picture[top : top + size, left : left + size]
        for cell in itertools.product(*map(range, found["grid"])):
            own, plain = tile(shown, cell, side, side), tile(images[number], cell, side, side)
            line = side // 16
            np.testing.assert_array_equal(own[line:-line, line:-line], plain[line:-line, line:-line])
            if cell in right[number][source]:
                np.testing.assert_array_equal(own, plain)
            else:
                wrong += 1
                for edge in (own[:line], own[-line:], own[:, :line], own[:, -line:]):
                    assert (edge == [217, 26, 26]).all()
    assert wrong == round(len(found["fragments"]) * (1 - found["scores"]["direct"]))
    assert wrong > 0


def test_the_same_files_give_the_same_placement_and_are_taken_in_their_order(
    tmp_path: Path, cache: Path, mosaic: Path, rebuilt: Path
) -> None:
    whole = read_json(rebuilt / "placement.json")
    assert reassemble(tmp_path / "list", cache, mosaic, [CHINA, FLOWER]) == whole
    assert fingerprint(tmp_path / "list" / "images") == fingerprint(rebuilt / "images")
    turned = reassemble(tmp_path / "turned", cache, mosaic, [FLOWER, CHINA])
    assert [row["file"] for row in turned["fragments"]] != [row["file"] for row in whole["fragments"]]
    assert [row["cut_from"] for row in turned["fragments"]] == [row["cut_from"] for row in whole["fragments"]]


def test_fragments_leave_the_group_of_their_embedding_until_no_swap_gains(rebuilt: Path, mosaic: Path) -> None:
    config = load_run(rebuilt).config
    puzzle = cut_puzzle([CHINA, FLOWER], config)
    model = load_run(mosaic).load_model()
    assert isinstance(model, Solver)
    with torch.inference_mode():
        solution = model.solve(puzzle.seen)
        clues = all_clues(solution, puzzle.seen, (4, 4))
    found = read_json(rebuilt / "placement.json")["fragments"]
    held = [row["fragment"] for row in sorted(found, key=lambda row: place_of(row, [4, 4]))]
    reached = slow_gain(clues, 0, held, (4, 4))
    for one, other in itertools.combinations(range(32), 2):
        swapped = list(held)
        swapped[one], swapped[other] = held[other], held[one]
        assert slow_gain(clues, 0, swapped, (4, 4)) <= reached + 1e-2
    keys = keys_of(config.evaluation.seed, "reassemble", 0, 1)
    groups = balanced_kmeans(solution.embeddings, 2, keys, config.evaluation.restarts, size=16)[0].tolist()
    assert groups != [row["image"] for row in found]


def test_other_files_of_a_folder_are_passed_over(tmp_path: Path, cache: Path, mosaic: Path, photographs: Path) -> None:
    (photographs / "notes.txt").write_text("no image")
    (photographs / ".hidden.png").write_text("no image")
    found = reassemble(tmp_path / "run", cache, mosaic, photographs)
    assert {Path(row["file"]).name for row in found["fragments"]} == {"china.jpg", "flower.jpg"}


def test_one_image_alone_is_put_together(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    found = reassemble(tmp_path / "run", cache, mosaic, CHINA)
    assert_placed(found, 16)
    assert found["images"] == 1
    assert names(tmp_path / "run" / "images") == ["0.png"]
    assert found["scores"] == pytest.approx(slow_scores(found), abs=1e-12)


@pytest.mark.fault("mode=reassemble of photographs that are not square")
def test_images_of_all_kinds_and_sizes_are_cut_to_one(
    tmp_path: Path, cache: Path, mosaic: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    resized(CHINA, 70, 101, "L").save(folder / "grey.png")
    resized(FLOWER, 200, 67, "RGBA").save(folder / "high.png")
    resized(FLOWER, 65, 333, "P").save(folder / "wide.gif")
    with caplog.at_level(logging.INFO, "fragrecon"):
        found = reassemble(tmp_path / "run", cache, mosaic, folder)
    assert "enlarged" not in caplog.text
    assert "3 of 3 images are cropped" in caplog.text
    assert_placed(found, 48)
    images = [pixels_of(tmp_path / "run" / "images" / name) for name in image_names(3)]
    assert [image.shape for image in images] == [(64, 64, 3)] * 3
    originals = {str(path): decode(path, (3, 64, 64)).transpose(1, 2, 0) for path in folder.iterdir()}
    for row in found["fragments"]:
        own = tile(originals[row["file"]], row["cut_from"], 16, 16)
        np.testing.assert_array_equal(tile(images[row["image"]], row["cell"], 16, 16), own)


def test_images_that_are_too_small_are_enlarged_with_a_warning(
    tmp_path: Path, cache: Path, mosaic: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [tmp_path / "small.png", tmp_path / "large.png"]
    resized(CHINA, 30, 200).save(files[0])
    resized(FLOWER, 200, 200).save(files[1])
    with caplog.at_level(logging.WARNING, "fragrecon"):
        assert_placed(reassemble(tmp_path / "run", cache, mosaic, files), 32)
    assert "smaller than 64x64 pixels and are enlarged" in caplog.text


def test_a_turned_photograph_is_that_which_it_shows(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    with Image.open(CHINA) as file:
        upright = file.convert("RGB").crop((0, 0, 300, 427))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be shown turned by a quarter, clockwise
    placed = {}
    for name, image in (("plain", upright), ("turned", upright.transpose(Image.Transpose.ROTATE_90))):
        file_name = tmp_path / f"{name}.png"
        image.save(file_name, exif=exif if name == "turned" else None)
        found = reassemble(tmp_path / f"{name}-run", cache, mosaic, [file_name])
        placed[name] = [{**row, "file": ""} for row in found["fragments"]]
    assert placed["plain"] == placed["turned"]
    assert fingerprint(tmp_path / "plain-run" / "images") == fingerprint(tmp_path / "turned-run" / "images")


def test_grey_images_of_another_grid_are_put_together(tmp_path: Path, cache: Path, grey: Path) -> None:
    found = reassemble(tmp_path / "run", cache, grey, [CHINA, FLOWER])
    assert found["grid"] == [2, 3]
    assert_placed(found, 12)
    assert found["scores"] == pytest.approx(slow_scores(found), abs=1e-12)
    scale = 14  # of 512 // 36, less than what 427 // 24 would be
    images = [pixels_of(tmp_path / "run" / "images" / name) for name in image_names(2)]
    assert [image.shape for image in images] == [(24 * scale, 36 * scale, 1)] * 2
    originals = {str(path): decode(path, (1, 24 * scale, 36 * scale)).transpose(1, 2, 0) for path in (CHINA, FLOWER)}
    for row in found["fragments"]:
        own = tile(originals[row["file"]], row["cut_from"], 12 * scale, 12 * scale)
        np.testing.assert_array_equal(tile(images[row["image"]], row["cell"], 12 * scale, 12 * scale), own)
    loose = [file for n, image in enumerate(images) for file in write_fragments(tmp_path / "loose", image, 168, 6 * n)]
    again = reassemble(tmp_path / "again", cache, grey, loose[:10], "loose=true")
    assert_placed(again, 10)
    assert pixels_of(tmp_path / "again" / "figures" / "rebuilt.png").shape[-1] == 3


def test_large_images_are_seen_as_means_of_their_pixels(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    small, large = ([tmp_path / f"{kind}-{path.stem}.png" for path in (CHINA, FLOWER)] for kind in ("small", "large"))
    for source, one, other in zip((CHINA, FLOWER), small, large, strict=True):
        resized(source, 64, 64).save(one)
        Image.fromarray(grained(pixels_of(one))).save(other)
    first, last = (reassemble(tmp_path / own[0].stem, cache, mosaic, own) for own in (small, large))
    assert [{**row, "file": ""} for row in first["fragments"]] == [{**row, "file": ""} for row in last["fragments"]]
    assert pixels_of(tmp_path / large[0].stem / "images" / "0.png").shape == (128, 128, 3)


# Loose fragments ------------------------------------------------------------------------------------------------------


def test_loose_fragments_are_put_together_as_those_of_cut_photographs(
    tmp_path: Path, cache: Path, mosaic: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photographs = [tmp_path / "china.png", tmp_path / "flower.png"]
    for source, path in zip((CHINA, FLOWER), photographs, strict=True):
        resized(source, 64, 64).save(path)
    cut = reassemble(tmp_path / "cut", cache, mosaic, photographs)
    (tmp_path / "loose").mkdir()
    for number, row in enumerate(cut["fragments"]):
        own = tile(pixels_of(Path(row["file"])), row["cut_from"], 16, 16)
        Image.fromarray(own).save(tmp_path / "loose" / f"{number:02d}.png")
    with caplog.at_level(logging.INFO, "fragrecon"):
        found = reassemble(tmp_path / "found", cache, mosaic, tmp_path / "loose")
    assert "32 files as loose fragments (loose=false" in caplog.text
    assert "scores" not in found
    assert (found["grid"], found["images"]) == ([4, 4], 2)
    assert [Path(row["file"]).name for row in found["fragments"]] == [f"{n:02d}.png" for n in range(32)]
    assert all(set(row) == {"fragment", "file", "image", "cell", "rotation"} for row in found["fragments"])
    for one, other in zip(cut["fragments"], found["fragments"], strict=True):
        assert (one["image"], one["cell"]) == (other["image"], other["cell"])
    assert fingerprint(tmp_path / "cut" / "images") == fingerprint(tmp_path / "found" / "images")


@pytest.mark.parametrize("lost", [2, 15, 17, 28, 29, 30, 31])
def test_where_fragments_are_lost_cells_stay_empty(tmp_path: Path, cache: Path, mosaic: Path, lost: int) -> None:
    files = loose_photographs(tmp_path / "loose")[lost:]
    found = reassemble(tmp_path / "run", cache, mosaic, files)
    assert_placed(found, len(files))
    assert math.ceil(len(files) / 16) <= found["images"] <= max(3, len(files) // 4)
    pictures = [pixels_of(tmp_path / "run" / "images" / name) for name in image_names(found["images"])]
    assert len(names(tmp_path / "run" / "images")) == found["images"]
    held = {place_of(row, [4, 4]): row["file"] for row in found["fragments"]}
    for number, picture in enumerate(pictures):
        for cell in range(16):
            own = tile(picture, divmod(cell, 4), 16, 16)
            if (number, cell) in held:
                np.testing.assert_array_equal(own, pixels_of(Path(held[number, cell])))
            else:
                assert (own == PAPER).all()


@pytest.mark.parametrize("size", [8, 24, 40])
def test_fragments_of_another_size_are_shown_as_they_are(
    tmp_path: Path, cache: Path, mosaic: Path, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    files = loose_photographs(tmp_path / "loose", size)
    with caplog.at_level(logging.WARNING, "fragrecon"):
        found = reassemble(tmp_path / "run", cache, mosaic, files)
    assert ("smaller than the 16x16 pixels" in caplog.text) == (size < 16)
    assert_placed(found, 32)
    pictures = [pixels_of(tmp_path / "run" / "images" / name) for name in image_names(2)]
    for row in found["fragments"]:
        np.testing.assert_array_equal(
            tile(pictures[row["image"]], row["cell"], size, size), pixels_of(Path(row["file"]))
        )


def test_large_fragments_are_seen_as_means_of_their_pixels(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    files = loose_photographs(tmp_path / "loose")
    doubled = tmp_path / "doubled"
    doubled.mkdir()
    for number, file in enumerate(files):
        Image.fromarray(grained(pixels_of(file))).save(doubled / f"{number:02d}.png")
    small = reassemble(tmp_path / "small", cache, mosaic, files)
    found = reassemble(tmp_path / "large", cache, mosaic, doubled)
    for one, other in zip(small["fragments"], found["fragments"], strict=True):
        assert (one["image"], one["cell"]) == (other["image"], other["cell"])


@pytest.mark.parametrize(
    ("sizes", "said", "loose"),
    [
        ([(40, 40), (40, 40)], None, True),
        ([(63, 63), (63, 63)], None, True),
        ([(64, 40), (64, 40)], None, False),
        ([(40, 64), (40, 64)], None, False),
        ([(40, 40), (40, 41)], None, False),
        ([(40, 40), (40, 40)], False, False),
        ([(90, 80), (90, 80)], True, True),
    ],
)
def test_files_of_one_size_below_that_of_an_image_are_fragments_unless_told_otherwise(
    tmp_path: Path, cache: Path, mosaic: Path, sizes: list[tuple[int, int]], said: bool | None, loose: bool
) -> None:
    files = []
    for source, size in zip((CHINA, FLOWER), sizes, strict=True):
        files.append(tmp_path / f"{source.stem}.png")
        resized(source, *size).save(files[-1])
    more = [] if said is None else [f"loose={said}"]
    found = reassemble(tmp_path / "run", cache, mosaic, files, *more)
    assert len(found["fragments"]) == (2 if loose else 32)
    assert ("scores" in found) != loose


# What is refused ------------------------------------------------------------------------------------------------------


def assert_refused(tmp_path: Path, cache: Path, error: type[Exception], message: str, *given: object) -> None:
    folder = tmp_path / "refused"
    with pytest.raises(error, match=message):
        job(folder, cache, "mode=reassemble", *given)
    assert status(folder)["status"] == "failed"
    assert not {"placement.json", "images", "figures"} & set(names(folder))


def test_what_is_missing_is_told(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    run = f"run={mosaic}"
    for error, message, given in (
        (ConfigError, "input", [run]),
        (ConfigError, "input", [run, "input=[]"]),
        (ConfigError, "input", [run, "input=''"]),  # not the current folder
        (ConfigError, "input", [run, "input=3"]),
        (ConfigError, "input", [run, "input=[a.png,3]"]),
        (ConfigError, "input", [run, "input={a: b.png}"]),
        (ConfigError, "run", [f"input={tmp_path / 'empty'}"]),
        (DataError, "empty holds no image", [run, f"input={tmp_path / 'empty'}"]),
        (DataError, "nowhere is not there", [run, f"input={tmp_path / 'nowhere'}"]),
        (DataError, r"nothing\.png is not there", [run, f"input=[{CHINA},{tmp_path / 'nothing.png'}]"]),
        (DataError, "empty is not there", [run, f"input=[{tmp_path / 'empty'}]"]),
    ):
        shutil.rmtree(tmp_path / "refused", ignore_errors=True)
        assert_refused(tmp_path, cache, error, message, *given)


@pytest.mark.parametrize("damage", ["text", "half"])
def test_a_broken_image_is_named(tmp_path: Path, cache: Path, mosaic: Path, damage: str) -> None:
    whole = CHINA.read_bytes()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image" if damage == "text" else whole[: len(whole) // 2])
    assert_refused(
        tmp_path,
        cache,
        DataError,
        r"broken\.jpg is not a readable image \(.*\); repair or remove it",
        f"run={mosaic}",
        f"input=[{FLOWER},{broken}]",
    )


def test_loose_fragments_of_unlike_size_are_refused_by_name(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    files = loose_photographs(tmp_path / "loose")[:3]
    resized(CHINA, 16, 17).save(files[1])
    message = rf"{files[1].name} has 16x17 pixels and .*{files[0].name} 16x16; loose=false"
    given = f"input=[{','.join(map(str, files))}]"
    assert_refused(tmp_path, cache, DataError, message, f"run={mosaic}", given, "loose=true")


def test_a_model_that_does_not_reassemble_such_images_is_refused(
    tmp_path: Path, cache: Path, mosaic: Path, finished: Path
) -> None:
    changes = [f"data.fragment_size={size}" for size in ("8", "[16,32]")] + ["data.channels=1"]
    changes += [f"data.image_size={size}" for size in ("[32,32]", "[96,128]", "[32,128]")]
    for number, given in enumerate([[f"run={finished}"], *([f"run={mosaic}", change] for change in changes)]):
        message = r"images of \d+x\d+ fragments of .*data\.fragment_size"
        assert_refused(tmp_path / str(number), cache, ConfigError, message, f"input={CHINA}", *given)


def test_more_fragments_than_memory_holds_are_refused(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    files = [tmp_path / f"{side}.png" for side in (16, 17)]
    for file in files:
        resized(CHINA, int(file.stem), 16).save(file)
    many = f"input=[{','.join(map(str, [files[0]] * 256 + files[1:]))}]"
    message = "4112 fragments are more than the 4096 that one puzzle may hold; give fewer files"
    assert_refused(tmp_path, cache, ConfigError, message, f"run={mosaic}", many)
    shutil.rmtree(tmp_path / "refused")
    # As loose fragments they are few, but not of one size.
    assert_refused(tmp_path, cache, DataError, "should have one size", f"run={mosaic}", many, "loose=true")


def test_a_model_of_another_grid_is_still_scored_by_its_embeddings(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    given = ["mode=evaluate", f"run={mosaic}", "data.image_size=[48,64]", "evaluation.puzzles=1"]
    job(tmp_path / "run", cache, *given)
    assert metrics(tmp_path / "run")["scores"]["model"]["kmeans_ari"]["n"] == 1


# Scores of a run ------------------------------------------------------------------------------------------------------

REBUILT = [f"{way}_{name}" for way in ("placing", "reassembly") for name in ("direct", "neighbours", "perfect")]
PAIRS = ["spectral_ari", "spectral_nmi", "spectral_accuracy", "same_auroc", "adjacency_auroc"]


def test_a_mosaic_is_scored_by_pairs_and_reassembly_beside_pixels_alone(
    tmp_path: Path, cache: Path, mosaic: Path, finished: Path
) -> None:
    own, plain = metrics(mosaic)["scores"], metrics(finished)["scores"]
    assert set(own) - set(plain) == {"seam_gradients"}
    assert set(own["model"]) - set(plain["model"]) == {*PAIRS, *REBUILT}
    assert list(own["seam_gradients"]) == REBUILT
    assert list(metrics(mosaic)["model_minus"]["seam_gradients"]) == REBUILT
    difference = metrics(mosaic)["model_minus"]["seam_gradients"]["placing_direct"]["mean"]
    means = [own[method]["placing_direct"]["mean"] for method in ("model", "seam_gradients")]
    assert difference == pytest.approx(means[0] - means[1], abs=1e-12)
    assert own["seam_gradients"]["placing_direct"]["mean"] > 0.7  # 1 in 16 by chance
    job(tmp_path / "again", cache, "mode=evaluate", f"run={mosaic}")
    assert metrics(tmp_path / "again")["scores"] == metrics(mosaic)["scores"]


def test_scores_of_a_mosaic_do_not_depend_on_the_size_of_batches(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    job(tmp_path / "alone", cache, "mode=evaluate", f"run={mosaic}", "evaluation.batch_size=1")
    own, alone = metrics(mosaic)["scores"], metrics(tmp_path / "alone")["scores"]
    assert own["seam_gradients"] == alone["seam_gradients"]
    for name in (*REBUILT, *PAIRS):
        assert alone["model"][name]["mean"] == pytest.approx(own["model"][name]["mean"], abs=0.02), name


# Sizes of files -------------------------------------------------------------------------------------------------------


def oriented(folder: Path, kinds: Iterable[str], orientations: Iterable[int]) -> list[Path]:
    found = []
    for kind, orientation in itertools.product(kinds, orientations):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        found.append(folder / f"{orientation}.{kind}")
        Image.new("RGB", (30, 20), "red").save(found[-1], exif=exif)
    return found


def test_the_size_of_a_file_is_that_of_the_upright_image(tmp_path: Path) -> None:
    for path in oriented(tmp_path, ("jpg", "png", "webp", "tiff"), range(9)):
        assert size_of(path) == ((30, 20) if int(path.stem) >= 5 else (20, 30)), path.name
    for path in oriented(tmp_path, ("jpg", "png"), (9, 200)):  # there are no such orientations
        assert size_of(path) == (20, 30), path.name
    for kind in ("bmp", "gif", "png"):
        Image.new("L", (7, 11)).save(tmp_path / f"plain.{kind}")
        assert size_of(tmp_path / f"plain.{kind}") == (11, 7)


def test_the_size_of_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for path in (tmp_path / "text.png", tmp_path / "nothing.png", tmp_path):
        with pytest.raises(DataError, match=rf"^{path} is not a readable image \(.+\); repair or remove it$"):
            size_of(path)


def test_a_mosaic_is_scored_under_harder_conditions_too(tmp_path: Path, cache: Path, mosaic: Path) -> None:
    """Also under the usual one, where what pixels alone put together has no scores of clustering to be drawn."""
    axes = ("fragment_size", "rotation", "jitter", "noise", "jpeg_quality")
    none = [f"evaluation.robustness.{axis}=[]" for axis in axes]
    given = ["evaluation=robustness", *none, "evaluation.robustness.images=[5,10]", "evaluation.robustness.gap=[1]"]
    given.append("evaluation.robustness.missing=[0.2]")
    count = ["evaluation.puzzles=2", "evaluation.robustness.puzzles=2"]
    job(tmp_path / "harder", cache, "mode=evaluate", f"run={mosaic}", *given, *count, figures=True)
    rows = files.read_csv(tmp_path / "harder" / "robustness.csv")
    known: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        known.setdefault((row["axis"], row["value"]), set()).add(row["method"])
    assert set(known) == {("images", "5"), ("images", "10"), ("gap", "1"), ("missing", "0.2")}
    for methods in known.values():
        assert "model" in methods
        assert "seam_gradients" not in methods
    assert (tmp_path / "harder" / "figures" / "robustness.png").is_file()


def test_rotated_and_missing_fragments_are_told_and_drawn_as_they_were(
    tmp_path: Path, cache: Path, mosaic: Path, photographs: Path
) -> None:
    whole = reassemble(tmp_path / "whole", cache, mosaic, photographs)
    found = reassemble(tmp_path / "run", cache, mosaic, photographs, "rotate=true", "missing=0.25")
    assert len(found["fragments"]) == round(0.75 * len(whole["fragments"]))
    assert {row["rotated"] for row in found["fragments"]} == {0, 90, 180, 270}
    assert {row["rotated"] for row in whole["fragments"]} == {0}
    assert {row["rotation"] for row in found["fragments"]} == {0}  # this model takes fragments to be upright
    upright = [row["rotated"] == 0 for row in found["fragments"]]
    assert found["scores"]["direct"] <= sum(upright) / len(upright)
    assert_placed(found, len(upright))
