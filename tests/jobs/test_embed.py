"""``mode=embed``: a table that any program reads, of embeddings that are those of the run."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from fragrecon import load_run
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError, DataError
from fragrecon.evaluation.setup import open_data
from fragrecon.jobs.embed import EmbeddingTable
from tests import layouts
from tests.cli import Cli, fingerprint, job, names, status

pytestmark = pytest.mark.timeout(180)
Columns = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def data(finished: Path) -> FragmentData:
    return open_data(load_run(finished).config)


def embed(folder: Path, cache: Path, run: Path, *overrides: str) -> Columns:
    """Do the job and read its table, by NumPy alone."""
    job(folder, cache, "mode=embed", f"run={run}", *overrides)
    with np.load(folder / "embeddings.npz", allow_pickle=False) as table:
        return dict(table)


def assert_same(first: Columns, second: Columns) -> None:
    assert list(first) == list(second)
    for name, column in first.items():
        np.testing.assert_allclose(column, second[name], atol=1e-5)


def test_every_fragment_of_the_test_split_has_its_row(
    tmp_path: Path, cache: Path, finished: Path, data: FragmentData
) -> None:
    before = fingerprint(finished)
    table = embed(tmp_path / "run", cache, finished)
    store = data.store("test")
    assert {name: (column.dtype, column.shape) for name, column in table.items()} == {
        **dict.fromkeys(("image", "row", "column", "label"), (np.dtype(np.int64), (60 * 16,))),
        "embedding": (np.dtype(np.float32), (60 * 16, 128)),
    }
    number = 0
    for image in range(60):
        for row in range(4):
            for column in range(4):
                assert [table[name][number] for name in ("image", "row", "column")] == [image, row, column]
                number += 1
    np.testing.assert_array_equal(table["label"], np.repeat(store.labels, 16))
    expected = load_run(finished).embed(store.images)
    np.testing.assert_allclose(table["embedding"], expected.reshape(60 * 16, 128), atol=1e-5)
    assert fingerprint(finished) == before
    assert status(tmp_path / "run")["status"] == "done"
    assert names(tmp_path / "run", "*embeddings*") == ["embeddings.npz"]


def test_the_command_line_tells_where_the_table_is_and_how_large(tmp_path: Path, cache: Path, finished: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    line = ("mode=embed", f"run={finished}", f"data.cache_dir={cache}", "embed.format=parquet")
    result = Cli(tmp_path, cache).here(*line).ok()
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert folder.name.endswith("-embed")
    assert f"960 embeddings of 128 dimensions, of 60 images: {folder}/embeddings.parquet" in result.stdout
    found = pyarrow.read_table(folder / "embeddings.parquet")
    assert str(found.schema.field("embedding").type) == "fixed_size_list<element: float>[128]"
    columns = {name: np.array(found.column(name).to_pylist()) for name in found.column_names}
    assert_same(columns, embed(tmp_path / "npz", cache, finished))


def test_the_table_needs_nothing_but_numpy(tmp_path: Path, cache: Path, finished: Path) -> None:
    embed(tmp_path / "run", cache, finished, "embed.images=3")
    code = "import sys, numpy as np; t = np.load(sys.argv[1]); print(t['embedding'].shape, *t['image'][::16])"
    line = [sys.executable, "-I", "-c", code, str(tmp_path / "run" / "embeddings.npz")]
    found = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    assert found[:2] == ["(48,", "128)"]
    assert len(set(found[2:])) == 3


def test_each_split_has_its_own_images(tmp_path: Path, cache: Path, finished: Path, data: FragmentData) -> None:
    held, trained = (
        embed(tmp_path / split, cache, finished, f"embed.split={split}") for split in ("validation", "train")
    )
    np.testing.assert_array_equal(np.unique(held["image"]), data.validation_images())
    np.testing.assert_array_equal(np.unique(trained["image"]), data.training_images())
    store, run = data.store("train"), load_run(finished)
    np.testing.assert_array_equal(held["label"], store.labels[held["image"]])
    expected = run.embed(store.images[data.validation_images()])
    np.testing.assert_allclose(held["embedding"], expected.reshape(-1, 128), atol=1e-5)


def test_some_images_are_drawn_from_all_over_the_split_always_the_same(
    tmp_path: Path, cache: Path, finished: Path
) -> None:
    few = embed(tmp_path / "few", cache, finished, "embed.images=7")
    ids = few["image"][::16]
    assert len(set(ids.tolist())) == 7
    assert sorted(ids.tolist()) == ids.tolist()
    assert ids.max() - ids.min() > 20
    assert_same(embed(tmp_path / "again", cache, finished, "embed.images=7", "seed=9"), few)
    whole = embed(tmp_path / "whole", cache, finished)
    rows = np.isin(whole["image"], ids)
    assert_same({name: column[rows] for name, column in whole.items()}, few)


def test_the_pieces_that_it_is_written_in_do_not_show(
    tmp_path: Path, cache: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    embedding = EmbeddingTable.embedding

    def noted(table: EmbeddingTable, part: slice) -> npt.NDArray[np.float32]:
        found = embedding(table, part)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(EmbeddingTable, "embedding", noted)
    at_once = embed(tmp_path / "once", cache, finished, "embed.images=25")
    assert sizes == [25 * 16]
    sizes.clear()
    assert_same(embed(tmp_path / "pieces", cache, finished, "embed.images=25", "evaluation.batch_size=1"), at_once)
    assert sizes == [160, 160, 80]
    sizes.clear()
    pyarrow = pytest.importorskip("pyarrow.parquet")
    smaller = ("embed.images=25", "evaluation.batch_size=1", "embed.format=parquet")
    job(tmp_path / "parquet", cache, "mode=embed", f"run={finished}", *smaller)
    assert sizes == [160, 160, 80]
    found = pyarrow.read_table(tmp_path / "parquet" / "embeddings.parquet").to_pydict()
    assert_same({name: np.array(column) for name, column in found.items()}, at_once)


@pytest.mark.parametrize("size", [1, 4])
def test_a_model_of_puzzles_embeds_those_that_are_scored(
    tmp_path: Path, cache: Path, mosaic: Path, data: FragmentData, size: int
) -> None:
    table = embed(tmp_path / "run", cache, mosaic, "embed.images=39", f"evaluation.batch_size={size}")
    assert list(table) == ["image", "row", "column", "label", "puzzle", "embedding"]
    assert len(table["puzzle"]) == 3 * 160  # of 39 images, 30 make whole puzzles
    model, scored = load_run(mosaic).model, data.test_set(3).read(slice(0, 3))
    with torch.inference_mode():
        embeddings = model.encode(scored.as_float().fragments).numpy()
    for puzzle in range(3):
        rows = {name: column[table["puzzle"] == puzzle] for name, column in table.items()}
        assert rows["image"][::16].tolist() == scored.image_ids[puzzle].tolist()
        places = scored.source_ids[puzzle] * 16 + scored.positions[puzzle]
        np.testing.assert_allclose(rows["embedding"][places], embeddings[puzzle], atol=1e-4)
        np.testing.assert_array_equal(rows["label"][places], scored.labels[puzzle])
        np.testing.assert_array_equal((rows["row"] * 4 + rows["column"])[places], scored.positions[puzzle])


def test_images_of_ones_own_are_embedded_and_named(tmp_path: Path, cache: Path, finished: Path) -> None:
    images, folder = layouts.pictures(3), tmp_path / "my images"
    folder.mkdir()
    for name, image in zip(("b.png", "c.png", "a.png"), images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / name)
    table = embed(tmp_path / "run", cache, finished, f"input='{folder}'")
    with (tmp_path / "run" / "images.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"image": str(number), "file": str(folder / name)}
            for number, name in enumerate(("a.png", "b.png", "c.png"))
        ]
    assert set(table["label"].tolist()) == {-1}
    expected = load_run(finished).embed(images[[2, 0, 1]])
    np.testing.assert_allclose(table["embedding"], expected.reshape(48, 128), atol=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embed.split=tests", r"embed\.split='tests' is not known; did you mean 'test'\?"),
        ("embed.format=npy", r"embed\.format='npy' is not known; did you mean 'npz'\?"),
        ("embed.images=0", r"embed\.images=0"),
        ("embed.images=61", r"embed\.images=61 should be from 1 to 60, which is all of embed\.split=test"),
        ("data.fragment_size=8", "takes fragments of 16x16 pixels, 3 channels, but data gives 8x8"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    tmp_path: Path, cache: Path, finished: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        embed(tmp_path / "run", cache, finished, override)
    assert status(tmp_path / "run")["status"] == "failed"
    assert not names(tmp_path / "run", "*embeddings*")


def test_fewer_images_than_a_puzzle_are_refused_by_a_model_of_puzzles(
    tmp_path: Path, cache: Path, mosaic: Path
) -> None:
    with pytest.raises(ConfigError, match=r"embed\.images=9 should be from 10 to 60"):
        embed(tmp_path / "run", cache, mosaic, "embed.images=9")


def test_no_run_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"run"):
        job(tmp_path / "run", cache, "mode=embed")


def test_ones_own_images_have_no_splits(tmp_path: Path, cache: Path, finished: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png is not there"):
        embed(tmp_path / "absent", cache, finished, "input=absent.png")
    with pytest.raises(ConfigError, match=r"embed\.split=train"):
        embed(tmp_path / "split", cache, finished, "input=absent.png", "embed.split=train")


def test_without_pyarrow_parquet_is_refused_before_any_work(
    tmp_path: Path, cache: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("fragrecon.jobs.embed.open_model", None)  # nor is the run opened
    with pytest.raises(ConfigError, match=r'pip install "fragrecon\[parquet\]"; embed\.format=npz'):
        job(tmp_path / "run", cache, "mode=embed", f"run={finished}", "embed.format=parquet")


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_table_is_whole_or_not_there(
    tmp_path: Path, cache: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    embedding = EmbeddingTable.embedding

    def failing(table: EmbeddingTable, part: slice) -> npt.NDArray[np.float32]:
        if part.start:
            raise OSError("no space left")
        return embedding(table, part)

    monkeypatch.setattr(EmbeddingTable, "embedding", failing)
    with pytest.raises(OSError, match="no space left"):
        job(
            tmp_path / "run",
            cache,
            "mode=embed",
            f"run={finished}",
            f"embed.format={kind}",
            "evaluation.batch_size=1",
        )
    assert status(tmp_path / "run")["status"] == "failed"
    assert not names(tmp_path / "run", "*embeddings*")
