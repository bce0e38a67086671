from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fragrecon.errors import ConfigError, DataError
from fragrecon.runs.read import load_run
from tests.cli import Cli, names
from tests.jobs.reassembled import CHINA, FLOWER, pixels_of, reassembled


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of different sizes, one of them upright."""
    folder = tmp_path_factory.mktemp("photographs")
    shutil.copy(CHINA, folder)
    with Image.open(FLOWER) as file:
        file.crop((100, 20, 420, 425)).save(folder / "flower.png")
    return folder


def assemble(folder: Path, cache: Path, given: Path, *more: str) -> dict[str, Any]:
    return reassembled(folder, cache, f"input={given}", *more)


def test_mixed_photographs_of_different_sizes_are_assembled_at_full_size(
    tmp_path: Path, cache: Path, photographs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = assemble(tmp_path, cache, photographs, "pieces.size=50")
    assert [image["grid"] for image in found["images"]] == [[8, 12], [8, 6]]
    assert found["scores"]["direct"] == found["scores"]["perfect"] == found["scores"]["sedas"] == 1
    assert found["scores_up_to_equal_pieces"]["direct"] == 1
    assert len(found["pieces"]) == 8 * 12 + 8 * 6
    assert "27 rows and 40 columns" in caplog.text  # cropped from the first
    np.testing.assert_array_equal(pixels_of(tmp_path / "images" / "0.png"), pixels_of(CHINA)[:400, :600])
    flower = pixels_of(photographs / "flower.png")
    np.testing.assert_array_equal(pixels_of(tmp_path / "images" / "1.png"), flower[:400, :300])
    kept = {
        "config.yaml",
        "overrides.yaml",
        "placement.json",
        "neighbours.csv",
        "report.html",
        "status.json",
    }
    assert kept <= set(names(tmp_path))
    figures = {"groups.png", "rebuilt_0.png", "rebuilt_1.png", "shuffled.png"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == figures
    assert load_run(tmp_path).config.pieces is not None


def test_the_tables_name_the_true_neighbours_and_places(tmp_path: Path, cache: Path, photographs: Path) -> None:
    given = ["pieces.grid=[6,8]", "pieces.images=known", "missing=0.05"]
    found = assemble(tmp_path, cache, photographs, *given)
    at = {(piece["file"], *piece["cut_from"]): piece["piece"] for piece in found["pieces"]}
    assert len(at) == len(found["pieces"]) == 91
    with (tmp_path / "neighbours.csv").open() as file:
        rows = {(int(row["piece"]), row["side"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4 * 91
    right = total = 0
    for (name, row, column), piece in at.items():
        for side, opposite, down, across in (("right", "left", 0, 1), ("below", "above", 1, 0)):
            other = at.get((name, row + down, column + across))
            if other is not None:
                likely = rows[piece, side]
                total += 1
                right += (int(likely["neighbour_1"]), likely["side_1"]) == (other, opposite)
                chances = [float(likely[f"probability_{place}"]) for place in range(1, 6)]
                assert chances == sorted(chances, reverse=True)
                assert 0 <= sum(chances) <= 1.001
    assert right / total > 0.9
    for piece in found["pieces"]:
        assert (piece["cell"] == piece["cut_from"]) == (piece["confidence"] >= 0.5) or found["scores"]["direct"] < 1
        assert 0 <= piece["confidence"] <= 1
    empty = [image["grid"][0] * image["grid"][1] - image["pieces"] for image in found["images"]]
    assert sum(empty) == 96 - 91


def test_rotated_pieces_are_turned_back(tmp_path: Path, cache: Path, photographs: Path) -> None:
    found = assemble(tmp_path, cache, photographs, "pieces.size=64", "pieces.rotation=unknown", "pieces.images=2")
    assert {piece["rotated"] for piece in found["pieces"]} == {0, 90, 180, 270}
    assert found["scores"]["perfect"] == 1
    for image in range(2):
        lies = {(p["rotated"] - p["rotation"]) % 360 for p in found["pieces"] if p["image"] == image}
        assert len(lies) == 1  # the image may lie in any of four ways


def test_loose_grey_pieces_are_assembled(tmp_path: Path, cache: Path) -> None:
    folder, order = tmp_path / "pieces", np.random.default_rng(0).permutation(48)
    folder.mkdir()
    with Image.open(CHINA) as file:
        grey = np.asarray(file.convert("L"))
    for number, cell in enumerate(order):
        row, column = divmod(int(cell), 8)
        Image.fromarray(grey[row * 70 : row * 70 + 70, column * 80 : column * 80 + 80]).save(
            folder / f"{number:02d}.png"
        )
    found = assemble(tmp_path / "run", cache, folder, "loose=true", "pieces.images=[[6,8]]")
    assert "scores" not in found
    for number, piece in enumerate(found["pieces"]):
        assert piece["file"] == str(folder / f"{number:02d}.png")
        assert piece["cell"] == list(divmod(int(order[number]), 8))
    np.testing.assert_array_equal(pixels_of(tmp_path / "run" / "images" / "0.png")[..., 0], grey[:420])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], ["run=FOLDER", "pieces.size", "pieces.grid", "loose=true"]),
        (["pieces.size=50", "pieces.grid=[4,4]"], ["pieces.size=50", "pieces.grid=[4, 4]"]),
        (["pieces.size=[50,60]", "pieces.rotation=unknown"], ["50x60", "pieces.rotation"]),
        (["pieces.size=50", "rotate=true"], ["pieces.rotation=unknown"]),
        (["pieces.size=50", "pieces.images=[[2,2]]"], ["[[2, 2]]", "144"]),
        (["pieces.size=50", "pieces.images=500"], ["pieces.images=500", "144"]),
        (["pieces.size=1000"], ["1000x1000"]),
        (["pieces.size=2"], ["4096"]),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, cache: Path, photographs: Path, given: list[str], told: list[str]
) -> None:
    with pytest.raises(ConfigError) as error:
        assemble(tmp_path, cache, photographs, *given)
    assert not [words for words in told if words not in str(error.value)]


def test_loose_pieces_have_one_size_and_no_known_images(tmp_path: Path, cache: Path, photographs: Path) -> None:
    with pytest.raises(DataError):
        assemble(tmp_path / "a", cache, photographs, "loose=true")
    (tmp_path / "pieces").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "pieces" / f"{number}.png")
    with pytest.raises(ConfigError):
        assemble(tmp_path / "b", cache, tmp_path / "pieces", "loose=true", "pieces.images=known")


def test_the_command_line_prints_the_outcome(tmp_path: Path, cache: Path) -> None:
    result = Cli(tmp_path, cache).here("mode=reassemble", f"input={CHINA}", "pieces.grid=[4,6]").ok()
    assert "1 image (4x6 pieces): 100.0%" in result.stdout
