"""Weights of exports as files, and weights that are installed as packages."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from fragrecon import load_run
from fragrecon.errors import RunError
from fragrecon.run import compose
from fragrecon.runs.checkpoints import half_weights, load_checkpoint, save_weights
from fragrecon.runs.weights import installed, installed_folder

FACTS = {"fragment_shape": [3, 16, 16], "grid": [4, 4], "num_classes": 10}


class Various(nn.Module):
    """Weights and buffers of several types, two of which share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(3, 2)
        self.second.weight = self.first.weight
        self.register_buffer("steps", torch.tensor([7, 70_000]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("huge", torch.tensor([1.0, 70_000.0]))
        self.register_buffer("infinite", torch.tensor([-torch.inf, 2.0]))
        self.register_buffer("turned", torch.arange(6.0).view(2, 3).T)


def write_export(folder: Path, **changes: Any) -> Path:
    """The weights of `Various` with the part of ``metrics.json`` that is read with them."""
    path = folder / "model.safetensors"
    export = {"sha256": save_weights(path, half_weights(Various())), "facts": FACTS} | changes
    (folder / "metrics.json").write_text(json.dumps({"scores": {}, "export": export}))
    return path


# Files ---------------------------------------------------------------------------------------------------------------


def test_floats_are_saved_as_float16_unless_they_overflow_and_all_else_as_it_is(tmp_path: Path) -> None:
    model = Various()
    digest = save_weights(tmp_path / "model.safetensors", half_weights(model))
    assert digest == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    found, expected = load_file(tmp_path / "model.safetensors"), model.state_dict()
    assert found.keys() == expected.keys()
    kinds = {"steps": "int64", "mask": "bool", "huge": "float32"}
    for name, value in found.items():
        assert value.dtype.name == kinds.get(name, "float16"), name
        assert (value == expected[name].numpy().astype(value.dtype)).all(), name
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_are_loaded_like_a_checkpoint(tmp_path: Path) -> None:
    contents = load_checkpoint(write_export(tmp_path))
    assert contents["facts"] == {"fragment_shape": (3, 16, 16), "grid": (4, 4), "num_classes": 10}
    model = Various()
    model.load_state_dict({key.removeprefix("model."): value for key, value in contents["state_dict"].items()})
    assert model.first.weight.dtype == torch.float32


def test_damaged_weights_are_refused_by_name(tmp_path: Path) -> None:
    path = write_export(tmp_path)
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", whole + b"\0"):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"model\.safetensors"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path)


@pytest.mark.parametrize("content", [b"no weights", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"null"])
def test_a_file_that_is_not_safetensors_is_refused_though_its_hash_is_stated(content: bytes, tmp_path: Path) -> None:
    path = write_export(tmp_path, sha256=hashlib.sha256(content).hexdigest())
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load_checkpoint(path)


def test_weights_without_their_hash_or_facts_are_refused(tmp_path: Path) -> None:
    for changes in ({"facts": None}, {"facts": {"grid": [4, 4]}}, {"facts": FACTS | {"grid": 4}}, {"sha256": None}):
        path = write_export(tmp_path, **changes)
        with pytest.raises(RunError, match=r"export|SHA-256"):
            load_checkpoint(path)
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(RunError, match=r"metrics\.json"):
        load_checkpoint(path)


# Installed packages --------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, distribution: str, **points: str) -> None:
    """Register weights as an installer does, in the folder of a distribution's metadata."""
    folder = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = ["[fragrecon.weights]", *(f"{name} = {value}" for name, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def package(site: Path, name: str) -> Path:
    """A package whose code must not run."""
    folder = site.joinpath(*name.split("."))
    folder.mkdir(parents=True)
    for place in (folder, *folder.parents):
        if place == site:
            break
        (place / "__init__.py").write_text("raise RuntimeError('imported')\n")
    return folder


def write_run(folder: Path, name: str) -> Path:
    """A folder that opens as a run, whose data has a name to recognise it by."""
    from omegaconf import OmegaConf

    folder.mkdir(parents=True, exist_ok=True)
    config = compose([f"data.name={name}"]).to_dict()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    (folder / "status.json").write_text('{"status": "done"}')
    return folder


def test_weights_are_found_by_name_without_importing_their_package(site: Path) -> None:
    install(site, "first-weights", small="first_weights", large="first_weights.inner.large")
    folders = {name: package(site, name) for name in ("first_weights.inner.large", "first_weights.other")}
    assert installed_folder("small") == site / "first_weights"
    assert installed_folder("large") == folders["first_weights.inner.large"]
    assert not any(name.startswith("first_weights") for name in sys.modules)
    write_run(site / "first_weights", "small")
    assert load_run("small").config.data.name == "small"


def test_a_folder_comes_before_installed_weights_of_its_name(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    install(site, "some-weights", small="some_weights")
    write_run(package(site, "some_weights"), "installed")
    assert load_run("small").config.data.name == "installed"
    assert compose(["init_from=small"]).init_from == "small"
    write_run(tmp_path / "small", "folder")
    assert load_run("small").config.data.name == "folder"
    assert compose(["init_from=small"]).init_from == str(tmp_path / "small")


def test_entry_points_are_read_only_if_there_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = metadata.entry_points

    def noted(**given: Any) -> Any:
        read.append(given["group"])
        return original(**given)

    monkeypatch.setattr(metadata, "entry_points", noted)
    load_run(write_run(tmp_path / "run", "run"))
    compose(["init_from=mosaic"])
    assert "fragrecon.weights" not in read
    with pytest.raises(RunError):
        load_run("nowhere")
    assert "fragrecon.weights" in read


def test_an_unknown_name_is_answered_with_the_nearest_and_all_installed(site: Path) -> None:
    with pytest.raises(RunError, match="'mosiac'"):
        load_run("mosiac")
    install(site, "some-weights", mosaic_test="some_weights", whole="some_weights")
    with pytest.raises(RunError, match=r"'mosaic_test'\?.*mosaic_test.*whole"):
        load_run("mosaic_tset")


def test_a_registered_package_that_is_missing_is_named(site: Path) -> None:
    install(site, "some-weights", small="gone_weights")
    (site / "single_weights.py").write_text("raise RuntimeError('imported')\n")
    install(site, "other-weights", single="single_weights")
    for name, missing in (("small", "gone_weights"), ("single", "single_weights")):
        with pytest.raises(RunError, match=f"'{name}'.*{missing}"):
            load_run(name)


def test_a_package_without_weights_is_named(site: Path) -> None:
    install(site, "some-weights", small="some_weights")
    folder = package(site, "some_weights")
    with pytest.raises(RunError, match=rf"{folder}.*config\.yaml"):
        load_run("small")


def test_of_two_packages_with_one_name_the_first_on_the_path_counts(site: Path, monkeypatch: Any) -> None:
    install(site, "later-weights", small="later_weights")
    first = site.parent / "first"
    install(first, "first-weights", small="first_weights")
    monkeypatch.syspath_prepend(first)
    assert installed()["small"].value == "first_weights"
