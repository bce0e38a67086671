"""Saved configs: they are read as data, however they were made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fragrecon.config.plain import DEEPEST, LONGEST, read_yaml
from fragrecon.config.saved import changed, load
from fragrecon.errors import ConfigError
from fragrecon.run import compose

# PyYAML writes the control character U+0085 so that it is read as a space.
texts = st.text(st.characters(codec="utf-8", exclude_characters="$\x85"), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def refusal(read: Callable[[Path], Any], file: Path, text: str | bytes) -> str:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(texts, values, max_size=4))
def test_plain_values_come_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "plain.yaml"
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(value)))
    assert read_yaml(file) == value


def test_a_saved_config_is_read_as_omegaconf_reads_it(file: Path) -> None:
    config = compose(["model=mosaic", "trainer.max_time='00:00:30:00'", "data.cache_dir=/tmp/a b", "optimizer.lr=1e-5"])
    file.write_text(OmegaConf.to_yaml(OmegaConf.create(config.to_dict())))
    assert read_yaml(file) == OmegaConf.to_container(OmegaConf.load(file))
    assert load(file) == config


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "text",
    [
        ALIASES,
        "a: &a [*a]",
        "a: &a 1",
        "a: {<<: &a {b: 1}}",
        "&a b: 1",
        "a: " + "[" * 3000 + "]" * 3000,
        "a: " + "{b: " * 3000,
        "- " * 3000 + "1",
        "a: !!python/object/apply:os.system ['true']",
        "a: !!binary aGk=",
        "a: !!int '1'",
        "? [1]\n: 2",
        "a: 1\na: 2",
        "a: 1\n---\nb: 2",
        "x: ${oc.env:HOME}",
        "x: 'http://host/${oc.env:HOME}'",
        "${oc.env:HOME}: 1",
        "x: ${x}",
        "a: [1",
        "",
        "# nothing",
        "\0",
        b"a: \xff",
        b"a: 1\n" * (LONGEST // 5 + 1),
    ],
)
def test_other_yaml_is_refused(file: Path, text: str | bytes) -> None:
    for read in (read_yaml, load):
        assert str(file) in refusal(read, file, text)
    file.unlink()
    with pytest.raises(ConfigError, match=str(file)):
        load(file)


def test_the_depth_is_limited(file: Path) -> None:
    file.write_text("[" * DEEPEST + "]" * DEEPEST)
    read_yaml(file)
    assert str(DEEPEST) in refusal(read_yaml, file, "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1))


def test_numbers_are_not_computed_from_long_text(file: Path) -> None:
    text = ":".join(["59"] * 1000)  # a number to the base of 60 in YAML 1.1
    file.write_text(f"a: {text}\nc: 0x10\nd: 2026-01-31\n")
    assert read_yaml(file) == {"a": text, "c": "0x10", "d": "2026-01-31"}


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", ".", "..", "", "a\nb", "x" * 101])
def test_the_name_of_data_is_no_path(file: Path, name: str) -> None:
    values = compose([]).to_dict()
    values["data"]["name"] = name
    assert "data.name" in refusal(load, file, yaml.safe_dump(values))


def test_the_mode_is_the_name_of_a_module(file: Path) -> None:
    for mode in ("train.x", "../train", "", "a b"):
        assert "mode" in refusal(load, file, yaml.safe_dump(compose([]).to_dict() | {"mode": mode}))


def test_a_run_that_is_read_neither_downloads_nor_chooses_the_cache(tmp_path: Path) -> None:
    theirs = compose(["data=cifar10", "data.root=/r", "data.download=true", f"data.cache_dir={tmp_path}/outside"])

    def job(*overrides: str) -> Any:
        return changed(theirs, compose(list(overrides)), overrides).data

    read = job("mode=evaluate", "run=/theirs")
    assert (read.cache_dir, read.download, read.root) == (None, False, "/r")
    mine = job("mode=evaluate", "run=/theirs", f"data.cache_dir={tmp_path}/mine", "+data.download=true")
    assert (mine.cache_dir, mine.download) == (f"{tmp_path}/mine", True)
    resumed = job("resume=/theirs")
    assert (resumed.cache_dir, resumed.download) == (f"{tmp_path}/outside", True)
