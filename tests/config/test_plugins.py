"""Which packages may be imported for a config, and what those of the user add to it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fragrecon import load_run
from fragrecon.config import plugins
from fragrecon.config.build import build, resolve
from fragrecon.data.store import Reader
from fragrecon.errors import ConfigError, RunError
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Objective
from fragrecon.run import compose

FACTS: dict[str, Any] = {"fragment_shape": (3, 16, 16), "grid": (4, 4), "num_classes": 10}
SOURCE = """
from pathlib import Path
Path("imported").touch()
from torch import nn
from fragrecon.models.linear import LinearAutoencoder
class Mine(LinearAutoencoder): ...
class Plain: ...
class Holder(LinearAutoencoder):
    def __init__(self, fragment_shape, network: nn.Module, other: nn.Module | None = None, settings: dict = {}):
        super().__init__(fragment_shape)
        self.network, self.other, self.settings = network, other, settings
def function(): ...
"""
Package = Callable[[str], Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Writes a module of the user into the working folder, which is not on the search path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_trusted", set())
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    before = set(sys.modules)

    def write(name: str) -> Path:
        (tmp_path / f"{name}.py").write_text(SOURCE)
        return tmp_path / "imported"

    yield write
    for name in set(sys.modules) - before:
        if not name.startswith(("fragrecon", "torch", "lightning")):
            del sys.modules[name]


def install(site: Path, name: str, value: str) -> None:
    """Put the metadata of a distribution with an entry point into a folder."""
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[fragrecon.plugins]\n{name} = {value}\n")


def refused(target: Any, kind: Any = FragmentModel) -> str:
    with pytest.raises(ConfigError, match=r"^section\._target_=.*") as error:
        resolve(target, "section", kind)
    return str(error.value)


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("fragrecon.models.pretrained.import_optional", FragmentModel),
        ("fragrecon.models.pretrained.download_weights", torch.nn.Module),
        ("fragrecon.runs.read.load_run", Reader),
        ("torch.nn.attention._fa3.register_flash_attention_fa3", torch.nn.Module),
        ("torch.nn.init.zeros_", torch.nn.Module),
        ("torch.optim.Adam", LRScheduler),
        ("torch.optim.lr_scheduler.StepLR", Optimizer),
        ("torch.nn.Linear", FragmentModel),
        ("fragrecon.models.conv.ConvAutoencoder", Objective),
        ("fragrecon.objectives.vae.VAE", FragmentModel),
        ("fragrecon.models.conv.ConvAutoencoder", Reader),
        ("fragrecon.data.store.Reader", Reader),
        ("lightning.pytorch.callbacks.EarlyStopping", FragmentModel),
        ("lightning.pytorch.loggers.CSVLogger", Callback),
    ],
)
def test_a_target_is_a_class_of_the_kind_of_its_section(target: str, kind: Any) -> None:
    assert target in refused(target, kind)


def test_a_class_of_lightning_may_be_named_where_one_is_asked_for() -> None:
    name = "lightning.pytorch.callbacks.EarlyStopping"
    assert resolve(name, "section", Callback).__name__ == "EarlyStopping"
    assert resolve("fragrecon.data.readers.folder.ImageFolder", "section", Reader).__name__ == "ImageFolder"


def test_private_modules_of_torch_are_refused() -> None:
    assert "not trusted" in refused("torch.nn.modules._functions.SyncBatchNorm", object)


def test_a_package_that_is_not_trusted_is_not_imported(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    sentinel = package("stranger")
    message = refused("stranger.Mine")
    assert "plugins=[stranger]" in message
    assert f"{plugins.VARIABLE}=stranger" in message
    monkeypatch.syspath_prepend(str(sentinel.parent))  # it can be imported, but it is still not trusted
    refused("stranger.Mine")
    assert not sentinel.exists()
    assert "stranger" not in sys.modules


def test_a_package_can_be_trusted_in_several_ways(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("by_variable", "by_call", "by_program", "by_entry"):
        package(name)
        refused(f"{name}.Mine")
    monkeypatch.setenv(plugins.VARIABLE, "other, by_variable")
    with pytest.raises(RunError):
        load_run("nowhere", plugins=["by_call"])
    site = Path("site").absolute()
    install(site, "entry", "by_entry")
    sys.path.append(str(site))
    for name in ("by_variable", "by_call", "by_entry"):
        assert resolve(f"{name}.Mine", "section", FragmentModel).__module__ == name
    module = type(sys)("by_program")
    module.__file__ = str(Path("by_program.py").absolute())
    exec(SOURCE, vars(module))
    monkeypatch.setitem(sys.modules, "by_program", module)
    assert resolve("by_program.Mine", "section", FragmentModel) is module.Mine


def test_the_command_line_trusts_what_it_names(package: Package) -> None:
    package("by_target")
    package("by_list")
    refused("by_target.Mine")
    compose(["model._target_=by_target.Mine", "plugins=[by_list]"])
    assert resolve("by_target.Mine", "section", FragmentModel).__name__ == "Mine"
    assert resolve("by_list.Mine", "section", FragmentModel).__name__ == "Mine"
    refused("by_target.Plain")
    refused("by_target.function")


def test_the_frameworks_are_never_trusted_as_a_whole(package: Package) -> None:
    plugins.trust(["torch.hub", "fragrecon.runs", "os"])
    assert "torch.utils.data" in refused("torch.utils.data.Dataset", object)
    refused("torch.jit.ScriptModule", torch.nn.Module)


def test_a_distribution_in_the_working_folder_is_not_installed(package: Package) -> None:
    sentinel = package("stranger")
    install(sentinel.parent, "stranger", "stranger")
    sys.path.append(str(sentinel.parent))
    assert "stranger" not in plugins.registered()
    refused("stranger.Mine")
    assert not sentinel.exists()


def test_modules_of_python_and_of_installed_packages_are_not_trusted_because_they_are_imported() -> None:
    for target in ("numpy.memmap", "collections.UserList", "array.array", "pathlib.Path", "omegaconf.ListConfig"):
        assert sys.modules[target.partition(".")[0]]
        assert "is not trusted" in refused(target, object)


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("fragrecon.models.conw.ConvAutoencoder", "conv"),
        ("fragrecon.models.conv.ConvAutoencodr", "ConvAutoencoder"),
        ("fragrecom.models.conv.ConvAutoencoder", "fragrecon"),
        ("mine.Mime", "Mine"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(package: Package, target: str, near: str) -> None:
    package("mine")
    plugins.trust(["mine"])
    assert re.search(rf"did you mean '{near}'\?", refused(target))


@pytest.mark.parametrize("target", ["mine", "mine.", ".Mine", "mine..Mine", "mine.Mine()", "", None, 3])
def test_what_is_no_dotted_name_is_refused(package: Package, target: Any) -> None:
    sentinel = package("mine")
    plugins.trust(["mine"])
    refused(target)
    assert not sentinel.exists()


def test_a_node_is_built_for_a_parameter_of_its_kind(package: Package) -> None:
    package("mine")
    plugins.trust(["mine"])
    linear = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 3}
    node = {"_target_": "mine.Holder", "network": linear, "other": linear, "settings": {"_target_": "not built"}}
    model = build(node, "model", FragmentModel, **FACTS)
    assert isinstance(model.network, torch.nn.Linear)
    assert model.network.out_features == model.other.out_features == 3
    assert model.settings == {"_target_": "not built"}
    with pytest.raises(ConfigError, match=r"^model\.network\.out_feature is not known .*'out_features'"):
        build(node | {"network": linear | {"out_feature": 2}}, "model", FragmentModel, **FACTS)
    with pytest.raises(ConfigError, match=r"^model\.network\._target_="):
        build(node | {"network": {"_target_": "torch.optim.Adam"}}, "model", FragmentModel, **FACTS)


def test_a_typed_class_of_the_user_replaces_the_section(package: Package) -> None:
    package("mine")
    model = ["model._target_=mine.Mine", "+model.hidden=[8]", "model.latent_dim=4"]
    assert compose(model).model == {"_target_": "mine.Mine", "hidden": [8], "latent_dim": 4}
    reader = compose(["data.reader._target_=mine.Reader"]).data.reader
    assert reader == {"_target_": "mine.Reader"}
    optimizer = compose(["optimizer._target_=torch.optim.RMSprop", "~optimizer.betas"]).optimizer
    assert set(optimizer) == {"_target_", "lr", "weight_decay"}


def test_the_configuration_of_a_registered_package_is_composed(package: Package, tmp_path: Path) -> None:
    (tmp_path / "site" / "theirs" / "conf" / "model").mkdir(parents=True)
    (tmp_path / "site" / "theirs" / "__init__.py").write_text("from pathlib import Path; Path('imported').touch()")
    file = tmp_path / "site" / "theirs" / "conf" / "model" / "their_model.yaml"
    file.write_text("# @package _global_\nmodel:\n  _target_: theirs.Their\n  width: 3\n")
    install(tmp_path / "site", "theirs", "theirs")
    sys.path.append(str(tmp_path / "site"))
    assert plugins.config_folders() == [tmp_path / "site" / "theirs" / "conf"]
    assert compose(["model=their_model", "model.width=5"]).model == {"_target_": "theirs.Their", "width": 5}
    assert not (tmp_path / "imported").exists()
