from __future__ import annotations

import copy
import inspect
import math
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fragrecon.config import saved
from fragrecon.config.build import build, resolve
from fragrecon.config.parse import parse
from fragrecon.config.saved import changed as apply
from fragrecon.config.saved import config_hash
from fragrecon.config.schema import Config
from fragrecon.data.corruption import Corruption
from fragrecon.data.store import Reader
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.supervised import SupervisedClassifier
from fragrecon.objectives.base import Objective
from fragrecon.run import CONF, GROUPS, compose
from fragrecon.runs.modules import Facts, build_objective

CORRUPTION = ("share", "gap", "noise", "jitter", "rotation", "compression", "missing")
AXES = ("images", "fragment_size", "noise", "rotation", "jitter", "gap", "missing", "jpeg_quality")
NO_RANGES: list[Any] = [[], [4], [4, 8, 16], [8, 4], [1, 4], [0, 0], [-3, 4], [4, 81], 4, [2.0, 4]]
FACTS: dict[str, Any] = {"fragment_shape": (3, 16, 16), "grid": (4, 4), "num_classes": 10}
CONV = "fragrecon.models.conv.ConvAutoencoder"
FILES = [
    pytest.param(path.parent.name, path.stem, id=f"{path.parent.name}={path.stem}")
    for path in sorted(CONF.glob("*/*.yaml"))
    if path.stem != "base" and path.parent.name != "hydra"
]


@lru_cache
def composed(*overrides: str) -> Config:
    return compose(overrides)


def values(*overrides: str) -> dict[str, Any]:
    """A composed config as plain values that may be changed."""
    return copy.deepcopy(composed(*overrides).to_dict())


def changed(key: str, value: Any, *overrides: str) -> dict[str, Any]:
    config = values(*overrides)
    *path, last = key.split(".")
    section = config
    for name in path:
        section = section[name]
    section[last] = value
    return config


def group(name: str) -> list[str]:
    return sorted(path.stem for path in (CONF / name).glob("*.yaml") if path.stem != "base")


def read(name: str, stem: str) -> dict[str, Any]:
    contents = OmegaConf.to_container(OmegaConf.load(CONF / name / f"{stem}.yaml"))
    assert isinstance(contents, dict)
    own = contents.get(name)  # a file may also set keys of other sections
    own = own if isinstance(own, dict) else contents
    return {str(key): value for key, value in own.items()}


# Types and values ----------------------------------------------------------------------------------------------------


def test_the_default_config_parses_to_what_its_files_say() -> None:
    config = composed()
    assert (config.mode, config.seed, config.data.name) == ("train", 0, "synthetic")
    assert config.data.image_shape == (3, 64, 64)
    assert config.data.fragment_shape == (3, 16, 16)
    assert config.model["_target_"] == "fragrecon.models.mosaic.Mosaic"
    assert composed("model=conv").model == {"_target_": CONV, "latent_dim": 128, "encoder_channels": [32, 64]}
    assert config.max_epochs == config.data.epochs
    assert config.selection.monitor == "val_mean_clustering_score"


def test_a_config_is_frozen() -> None:
    for part, key in ((composed(), "seed"), (composed().data, "epochs"), (composed().trainer, "precision")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, key, 1)


PROBE, GENERATION, ROBUSTNESS = ("evaluation=probe",), ("evaluation=generation",), ("evaluation=robustness",)
REFUSED: list[tuple[str, Any, tuple[str, ...]]] = [
    *(("seed", value, ()) for value in ("three", 1.0, True, None, -1, [0, 1])),
    *(("mode", value, ()) for value in (3, None)),
    *(("data.download", value, ()) for value in (1, "yes")),
    *(("data.image_size", value, ()) for value in (0, True, "large", [64, "64"], [64], [64, 64, 3], [], [64, 0])),
    *(("data.fragment_size", value, ()) for value in ("16", 16.0, True, None, [], [16, 16, 16], [16, True])),
    *(("data.channels", value, ()) for value in (2, 0, "3")),
    *(("data.augment", value, ()) for value in ([1.0], None)),
    *(("data.augment.hue", value, ()) for value in ("strong", True, -0.1, 0.6)),
    *((f"data.augment.{key}", 1.1, ()) for key in ("horizontal_flip", "brightness", "contrast", "saturation", "glare")),
    *(("data.augment.rotation", value, ()) for value in (-1, 181)),
    *(("data.corruption", value, ()) for value in (0.5, [1])),
    *((f"data.corruption.{key}", -0.1, ()) for key in CORRUPTION),
    *((f"data.corruption.{key}", 1.5, ()) for key in ("share", "rotation", "jitter", "blur")),
    *(("data.corruption.noise", value, ()) for value in (math.nan, math.inf, "half")),
    ("data.corruption.missing", 1.0, ()),
    *(("data.images_range", value, ()) for value in NO_RANGES),
    *(("data.batches_per_epoch", value, ()) for value in (2.5, 0)),
    *((f"data.{key}", 0, ()) for key in ("images_per_puzzle", "puzzles_per_batch", "image_height", "width_step")),
    ("data.cache_dir", 7, ()),
    ("data.root", "???", ()),
    *(("data.epochs", value, ()) for value in (0, -1)),
    ("model", "conv", ()),
    *(("optimizer.lr", value, ()) for value in (-1, "fast", True)),
    *(("trainer.max_epochs", value, ()) for value in ("ten", 2.5, [1, 2], 0, -1)),
    *((f"trainer.{key}", value, ()) for key in ("devices", "max_steps") for value in (0, -2)),
    *((f"trainer.{key}", 0, ()) for key in ("min_epochs", "min_steps", "num_nodes", "accumulate_grad_batches")),
    *((f"trainer.{key}", value, ()) for key in ("limit_train_batches", "val_check_interval") for value in (0, 0.0)),
    *((f"trainer.{key}", -2, ()) for key in ("num_sanity_val_steps", "fast_dev_run", "gradient_clip_val")),
    ("trainer.devices", [-1], ()),
    *(("trainer.max_time", value, ()) for value in ("soon", "30:00", "00:00:00:00", "00:00:30:00s", 1800)),
    *(("trainer.accumulate_grad_batches", value, ()) for value in ({}, {0: 0}, {-1: 2}, {"first": 2})),
    *(("trainer.profiler", value, ()) for value in ("fast", True)),
    *(("trainer.callbacks", value, ()) for value in (["a.B"], {"mine": "a.B"})),
    *(("trainer.ema", value, ()) for value in (0, 1, -0.1, 1.5, math.nan, True)),
    ("trainer.check_val_every_n_epoch", 0, ()),
    ("trainer.limit_val_batches", -0.5, ()),
    *(("trainer.precision", value, ()) for value in ("bf16-true", "64-true", "64")),
    *(("trainer.limit_train_batches", value, ()) for value in (1.5, -1, "all")),
    ("trainer.gradient_clip_algorithm", "most", ()),
    *(("selection.min_delta", value, ()) for value in ("small", False, -0.1)),
    ("selection.mode", "most", ()),
    ("selection.patience", -1, ()),
    ("trainer.checkpoint_every_n_steps", 0, ()),
    ("compute.compile", "max", ()),
    *(("evaluation", value, ()) for value in (None, [3])),
    *((f"evaluation.{key}", -1, ()) for key in ("puzzles", "train_puzzles", "seed")),
    *((f"evaluation.{key}", 0, ()) for key in ("validation_puzzles", "batch_size", "restarts", "memory_mb")),
    *((f"evaluation.robustness.{key}", [0], ROBUSTNESS) for key in ("images", "noise", "rotation", "jitter", "gap")),
    *((f"evaluation.robustness.{key}", [1.5], ROBUSTNESS) for key in ("rotation", "jitter", "images")),
    *(("evaluation.robustness.missing", [value], ROBUSTNESS) for value in (0, 1)),
    *(("evaluation.robustness.jpeg_quality", [value], ROBUSTNESS) for value in (0, 101, 0.75)),
    *(("evaluation.robustness.noise", [value], ROBUSTNESS) for value in (math.nan, math.inf, -0.1)),
    ("evaluation.robustness.puzzles", 10**6, ROBUSTNESS),
    *(("evaluation.probe.classifiers", value, PROBE) for value in (["mpl"], [])),
    ("evaluation.probe.projections", ["tsme"], PROBE),
    *((f"evaluation.probe.{key}", -1.0, PROBE) for key in ("noise", "weight_decay", "lr")),
    ("evaluation.probe.scaling", "al", PROBE),
    *((f"evaluation.probe.{key}", 0, PROBE) for key in ("epochs", "batch_size", "svm_images")),
    ("evaluation.probe.hidden", [128, 0], PROBE),
    ("evaluation.probe.neighbours", [], PROBE),
    ("evaluation.generation.samples", 0, GENERATION),
    ("evaluation.generation.perceptual", ["lpips"], GENERATION),
    *(("bench.batch_sizes", value, ("mode=bench",)) for value in ([], [0], 3)),
    ("bench.seconds", 0, ("mode=bench",)),
    *(("demo.port", value, ("mode=demo", "run=x")) for value in (0, 2**16, "http")),
    *(("embed.split", value, ("mode=embed", "run=x")) for value in ("tset", None)),
    ("embed.format", "csv", ("mode=embed", "run=x")),
]


def test_an_invalid_value_is_refused_in_one_line_that_names_the_key() -> None:
    for key, value, line in REFUSED:
        with pytest.raises(ConfigError) as refused:
            parse(changed(key, value, *line))
        message = str(refused.value)
        assert key in message, (key, value, message)
        assert "\n" not in message


def test_values_that_exclude_each_other_are_refused() -> None:
    for line in (
        ["evaluation=generation", "evaluation.generation.samples=1", "evaluation.generation.perceptual=[fid]"],
        ["data.image_height=32"],
        ["data.image_height=32", "data.fragment_size=64", "data.images_per_puzzle=1"],
        ["evaluation=robustness", *(f"evaluation.robustness.{axis}=[]" for axis in AXES)],
    ):
        with pytest.raises(ConfigError):
            compose(line)


def test_the_message_names_all_types_that_a_value_may_have() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.limit_train_batches=1\.5 .*integer.*1"):
        parse(changed("trainer.limit_train_batches", 1.5))


@pytest.mark.fault("seed=[0,1,2]")
def test_a_list_for_a_single_value_says_how_to_sweep() -> None:
    with pytest.raises(ConfigError, match="-m seed=0,1,2"):
        compose(["seed=[0,1,2]"])


def test_values_of_the_right_type_are_kept() -> None:
    for key, value in (
        ("data.images_range", [2, 16]),
        ("data.images_range", None),
        ("data.augment.rotation", 1),
        ("data.corruption.gap", 3),
        ("trainer.max_epochs", None),
        ("trainer.limit_train_batches", 1.0),
        ("trainer.limit_train_batches", 1),
        ("trainer.devices", [0, 1]),
        ("trainer.devices", -1),
        ("trainer.max_steps", 7),
        ("trainer.limit_val_batches", 0),
        ("trainer.precision", 16),
        ("selection.min_delta", 1),
    ):
        found: Any = parse(changed(key, value)).to_dict()
        for name in key.split("."):
            found = found[name]
        assert found == value
    assert isinstance(parse(changed("trainer.limit_train_batches", 1)).trainer.limit_train_batches, int)
    assert isinstance(parse(changed("trainer.limit_train_batches", 1.0)).trainer.limit_train_batches, float)
    assert isinstance(parse(changed("selection.min_delta", 1)).selection.min_delta, float)
    assert str(composed("mode=bench", "trainer.precision=bf16-true").trainer.precision) == "bf16-true"


@pytest.mark.fault("data.image_size with one number")
def test_one_number_is_the_size_of_a_square_image() -> None:
    assert parse(changed("data.image_size", 32)).data.image_size == [32, 32]


@pytest.mark.parametrize(("size", "shape"), [(8, (3, 8, 8)), ([8, 16], (3, 8, 16)), ([32], (3, 32, 32))])
def test_the_shape_of_a_fragment_follows_from_its_size(size: Any, shape: tuple[int, int, int]) -> None:
    assert parse(changed("data.fragment_size", size)).data.fragment_shape == shape


def test_an_unknown_or_missing_key_is_refused_with_the_nearest() -> None:
    for key, near in (
        ("sead", "seed"),
        ("data.fragment_sise", "fragment_size"),
        ("evaluation.puzles", "puzzles"),
        ("trainer.max_epoch", "max_epochs"),
        ("selection.patiense", "patience"),
        ("sweep.nam", "name"),
    ):
        with pytest.raises(ConfigError, match=rf"{key}.*'{near}'"):
            parse(changed(key, 1))
        config = changed(near := ".".join([*key.split(".")[:-1], near]), 1)
        *path, last = near.split(".")
        section: Any = config
        for name in path:
            section = section[name]
        del section[last]
        with pytest.raises(ConfigError, match=near):
            parse(config)


def test_the_file_names_all_kinds_of_corruption_and_switches_them_off() -> None:
    known = {kind.name for kind in fields(Corruption)}
    assert set(CORRUPTION) == known
    assert composed().data.corruption == dict.fromkeys(CORRUPTION, 0)


# Hash, saving, opening -----------------------------------------------------------------------------------------------


def test_the_hash_depends_on_all_keys_but_inert_ones() -> None:
    usual = config_hash(composed())
    for key, value in (
        ("seed", 1),
        ("init_from", "some/run"),
        ("data.fragment_size", 8),
        ("data.augment.hue", 0.1),
        ("data.corruption.noise", 0.1),
        ("model.latent_dim", 64),
        ("objective._target_", "fragrecon.objectives.cross_entropy.CrossEntropy"),
        ("optimizer.lr", 0.1),
        ("trainer.max_epochs", 3),
        ("trainer.callbacks", {"mine": {"_target_": "mine.Mine"}}),
        ("evaluation.seed", 1),
        ("selection.patience", 3),
    ):
        assert config_hash(parse(changed(key, value))) != usual, key
        assert not saved.is_inert(key)
    inert: list[tuple[str, Any]] = [
        ("resume", "some/run"),
        ("logger", {"wandb": {"_target_": "fragrecon.training.loggers.Wandb"}}),
        ("trainer.profiler", "simple"),
        ("sweep.name", "another"),
        ("trainer.checkpoint_every_n_steps", 7),
        ("data.cache_dir", "/some/where"),
        ("trainer.enable_progress_bar", False),
    ]
    for key, value in inert:
        assert config_hash(parse(changed(key, value))) == usual, key
        assert saved.is_inert(key)
    assert saved.is_inert("hydra.launcher.n_jobs")
    assert not any(saved.is_inert(key) for key in ("data", "data.cache_dirs", "loggers", "model.logger"))


def test_the_hash_is_short_and_does_not_depend_on_the_order_of_keys() -> None:
    config = values()
    turned = {key: config[key] for key in reversed(config)}
    turned["model"] = {key: config["model"][key] for key in reversed(config["model"])}
    assert config_hash(parse(turned)) == config_hash(composed())
    assert len(config_hash(composed())) == 16
    assert int(config_hash(composed()), 16) >= 0


def save(config: Config, folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(config.to_dict())))
    return path


@pytest.mark.parametrize("overrides", [(), ("model=supervised", "scheduler=cosine", "data.fragment_size=[8,16]")])
def test_a_saved_config_loads_as_it_was(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = composed(*overrides)
    loaded = saved.load(save(config, tmp_path))
    assert loaded == config
    assert config_hash(loaded) == config_hash(config)


@pytest.mark.parametrize("text", ["1e3", "null", "yes", "012", "~", "", "a: b", "# no", "über", "x\ny", "3", "[1]"])
def test_a_text_like_a_number_stays_a_text_when_saved(text: str, tmp_path: Path) -> None:
    config = parse(changed("selection.monitor", text))
    assert saved.load(save(config, tmp_path)).selection.monitor == text


@pytest.mark.parametrize("key", ["data.root", "data.cache_dir", "init_from"])
def test_paths_are_made_absolute_so_that_a_saved_config_can_be_used_from_any_folder(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")

    def parsed(value: str | None) -> Any:
        return OmegaConf.select(OmegaConf.create(parse(changed(key, value)).to_dict()), key)

    assert parsed("some/images") == str(tmp_path / "some" / "images")
    assert parsed("/some/images") == "/some/images"
    assert parsed("~/images") == "/home/me/images"
    assert parsed(None) is None
    assert config_hash(parse(changed(key, "some/images"))) == config_hash(
        parse(changed(key, f"{tmp_path}/some/images"))
    )


def test_numbers_are_saved_without_loss(tmp_path: Path) -> None:
    for value in (1e-5, 1 / 3, 1e22, 5e-324, 0.1 + 0.2):
        assert saved.load(save(parse(changed("selection.min_delta", value)), tmp_path)).selection.min_delta == value


def test_schema_and_runs_import_neither_torch_nor_hydra() -> None:
    modules = "fragrecon.config.schema, fragrecon.runs.read"
    code = f"import sys, {modules}; print(*{{'torch', 'hydra', 'lightning'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# Building ------------------------------------------------------------------------------------------------------------


def test_build_makes_what_a_node_names() -> None:
    layer = build({"_target_": "torch.nn.Linear", "bias": False}, "layer", torch.nn.Module, 3, out_features=2)
    assert isinstance(layer, torch.nn.Linear)
    assert (layer.in_features, layer.out_features) == (3, 2)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_facts_are_passed_only_to_targets_that_take_them() -> None:
    conv = build({"_target_": CONV, "latent_dim": 4, "encoder_channels": [2]}, "model", FragmentModel, **FACTS)
    assert isinstance(conv, ConvAutoencoder)
    assert conv.fragment_shape == (3, 16, 16)
    node = {"_target_": "fragrecon.models.supervised.SupervisedClassifier"}
    assert build(node, "model", FragmentModel, **FACTS).head[-1].out_features == 10
    assert build(node | {"num_classes": 4}, "model", FragmentModel, **FACTS).head[-1].out_features == 4


def test_an_unknown_argument_is_refused_with_the_nearest_that_can_be_set() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.latent_dims is not known to .*; did you mean 'latent_dim'\?"
    ) as error:
        build({"_target_": CONV, "latent_dims": 4}, "model", FragmentModel, **FACTS)
    assert "fragment_shape" not in str(error.value)  # that comes from the data
    with pytest.raises(ConfigError, match=r"optimizer\.lrr is not known .*did you mean 'lr'") as error:
        build({"_target_": "torch.optim.Adam", "lrr": 4}, "optimizer", Optimizer, [torch.nn.Parameter(torch.zeros(1))])
    assert "params" not in str(error.value)


def test_a_missing_argument_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model: .*ConvAutoencoder .*'fragment_shape'"):
        build({"_target_": CONV}, "model", FragmentModel)


def test_an_argument_given_twice_is_refused() -> None:
    node = {"_target_": "torch.optim.SGD", "params": 3}
    with pytest.raises(ConfigError, match=r"optimizer: .*'params'"):
        build(node, "optimizer", Optimizer, [torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "torch.optim.Adam", "lr": -1.0}, "node: Invalid learning rate"),
        ({"_target_": "torch.optim.Adam", "lr": "fast"}, "node: "),
        ({"_target_": "torch.optim.Adam", "betas": [0.9, 2.0]}, "node: Invalid beta"),
    ],
)
def test_what_a_target_refuses_is_refused_under_its_path(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(node, "node", Optimizer, [torch.nn.Parameter(torch.zeros(1))])


def test_a_message_of_a_target_is_unchanged() -> None:
    with pytest.raises(ConfigError, match=r"^model\.encoder_channels=\[8, 8, 8, 8, 8\] has 5 stages"):
        build({"_target_": CONV, "encoder_channels": [8] * 5}, "model", FragmentModel, **FACTS)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("latent_dim", 0, r"model\.latent_dim=0 should be"),
        ("latent_dim", True, r"model\.latent_dim=True should be"),
        ("encoder_channels", [8, 0], r"model\.encoder_channels\[1\]=0 should be"),
        ("encoder_channels", [], r"model\.encoder_channels=\[\]"),
        ("encoder_channels", "8,8", r"model\.encoder_channels='8,8' should be"),
    ],
)
def test_settings_are_held_to_the_annotations_of_the_target(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{words}"):
        build({"_target_": CONV, setting: value}, "model", FragmentModel, **FACTS)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "builtins.exec",
        "subprocess.Popen",
        "pickle.loads",
        "torch.load",
        "torch.hub.load",
        "torch.save",
        "torch.jit.load",
        "torchvision.models.resnet18",
        "fragreconx.models.conv.ConvAutoencoder",
        "torch.nnx.Linear",
        "torch.optim",
        "torch",
        "fragrecon",
        "None",
        "",
        # seen from an allowed module, but not defined there
        "fragrecon.files.os.system",
        "fragrecon.files.shutil",
        "fragrecon.files.shutil.rmtree",
        "fragrecon.files.os",
        "fragrecon.files.Path",
        "fragrecon.files.contextmanager",
        "fragrecon.config.schema.importlib.import_module",
        "fragrecon.data.readers.pickles.pickle.loads",
        "fragrecon.models.conv.ConvAutoencoder.__globals__",
        "fragrecon.runs.checkpoints.torch.load",
        "torch.nn.init.warnings.warn",
        "torch.optim.lr_scheduler.partial",
        "torch.optim.adam.cast",
        # not there
        "fragrecon.models.conv.Absent",
        "fragrecon.models.absent.Absent",
        "fragrecon.models.conv.",
        "fragrecon..models.conv.ConvAutoencoder",
        "torch.nn.Lineer",
        # there, but nothing to build
        "fragrecon.models.conv",
        "fragrecon.evaluation.clustering.protocol.METRICS",
        "fragrecon.models.conv.ConvAutoencoder.embed",
    ],
)
def test_a_target_elsewhere_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\._target_=.*(is refused|does not exist)"):
        build({"_target_": target}, "model", FragmentModel)


def test_a_refused_target_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="is refused"):
        build({"_target_": "trap.Thing"}, "model", FragmentModel)


def test_a_node_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_"):
        build({"latent_dim": 3}, "model", FragmentModel)


# Later command lines on a saved config ------------------------------------------------------------------------------


def later(saved_line: tuple[str, ...], *given: str) -> Config:
    return apply(composed(*saved_line), composed(*given), given)


def differences(one: Any, other: Any, path: str = "") -> set[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return set() if one == other else {path}
    keys = one.keys() | other.keys()
    prefix = f"{path}." if path else ""
    return {found for key in keys for found in differences(one.get(key), other.get(key), prefix + key)}


SAVED = ("seed=5", "model=linear", "model.latent_dim=32", "data.epochs=50", "data.puzzles_per_batch=4", "sweep.name=a")
READ = ("mode=evaluate", "run=x", "sweep.name=a")


def test_only_what_is_given_changes() -> None:
    for command, given, found in (
        (("resume=x",), (), set()),
        (("resume=x",), ("optimizer.lr=0.5",), {"optimizer.lr"}),
        (("resume=x",), ("data.epochs=70",), {"data.epochs"}),
        (("resume=x",), ("data.puzzles_per_batch=8",), {"data.puzzles_per_batch"}),
        (("resume=x",), ("trainer=gpu",), {"trainer.accelerator"}),
        (("resume=x",), ("trainer=gpu", "trainer.max_epochs=3"), {"trainer.accelerator", "trainer.max_epochs"}),
        (("resume=x",), ("seed=5", "model.latent_dim=32"), set()),
        (READ, ("evaluation.puzzles=7",), {"evaluation.puzzles"}),
        (READ, ("seed=0",), {"seed"}),
        (READ, ("data.augment={hue:0.1}",), {"data.augment.hue"}),
        (READ, ("data.reader.train_images=99",), {"data.reader.train_images"}),
    ):
        expected = {*found, "resume"} if command == ("resume=x",) else {*found, "mode", "run", "checkpoint"}
        assert differences(composed(*SAVED).to_dict(), later(SAVED, *command, *given).to_dict()) == expected, given


def test_a_key_of_a_group_that_was_saved_as_null_is_set() -> None:
    config = later((*SAVED, "data.corruption=null"), "resume=x", "data.corruption.share=0.5")
    assert config.data.corruption == {"share": 0.5}


@pytest.mark.fault("model.latent_dim of a finished run")
def test_what_was_trained_cannot_be_changed() -> None:
    trained = ("model=pca", "model.latent_dim=128", "objective=cross_entropy", "+model.dropout=0.3")
    resumed = ("seed=0", "data.fragment_size=8", "data.channels=1", "data.name=other", "init_from=elsewhere")
    for command, lines in (("resume=x",), (*trained, *resumed)), (READ, trained):
        for line in lines:
            with pytest.raises(ConfigError, match=re.escape(line)):
                later(SAVED, *command, line)


def test_a_changed_config_is_checked_as_any_config_is() -> None:
    with pytest.raises(ConfigError, match="images_range"):
        later((*SAVED, "data.images_range=[2,40]"), "resume=x", "data.puzzles_per_batch=2")


# The files of conf/ --------------------------------------------------------------------------------------------------


def needed(group: str, name: str) -> list[str]:
    """What a file leaves for the user to set."""
    if group == "mode":
        return [f"{key}=PATH" for key, value in read(group, name).items() if value == "???"]
    if group == "model":
        return {"encoder": ["model.network._target_=torch.nn.Flatten"], "timm": ["model.name=resnet10t"]}.get(name, [])
    if (group, name) == ("data", "dataset"):
        return ["data.reader.dataset._target_=mypkg.MyDataset"]
    return ["data.root=FOLDER"] if group == "experiment" or read(group, name).get("root") == "???" else []


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_composes_alone(group: str, name: str) -> None:
    config = composed(f"{group}={name}", *needed(group, name))
    assert parse(config.to_dict()) == config
    assert config.mode == (name if group == "mode" else "train")


@pytest.mark.fault("data.root is not set")
@pytest.mark.parametrize("name", [name for name in group("data") if read("data", name)["root"] == "???"])
def test_data_in_files_require_a_root(name: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.root=FOLDER"):
        compose([f"data={name}"])


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_starts_with_a_description(group: str, name: str) -> None:
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    assert (
        any(line.startswith("# ") and not line.startswith("# @package") for line in lines[:2]) or group == "optimizer"
    )


@pytest.mark.parametrize("name", group("data"))
def test_data_is_named_as_its_file(name: str) -> None:
    assert composed(f"data={name}", *needed("data", name)).data.name == name


@pytest.mark.parametrize("name", group("model"))
def test_every_model_builds_with_the_objective_it_names(name: str) -> None:
    if name == "timm":
        pytest.importorskip("timm")
    config = composed(f"model={name}", *needed("model", name))
    model = build(config.model, "model", FragmentModel, **FACTS)
    assert isinstance(model, FragmentModel)
    assert isinstance(model, SupervisedClassifier) == (name == "supervised")
    build_objective(config.objective, Facts(**FACTS), model.latent_dim).check(model)


@pytest.mark.parametrize("name", group("objective"))
def test_every_objective_builds(name: str) -> None:
    assert isinstance(build_objective(composed(f"objective={name}").objective, Facts(**FACTS), 128), Objective)


@pytest.mark.parametrize("name", group("optimizer"))
def test_every_optimizer_builds_with_its_rate(name: str) -> None:
    node = composed(f"optimizer={name}", "optimizer.lr=0.25").optimizer
    optimizer = build(node, "optimizer", Optimizer, [torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", group("scheduler"))
def test_every_schedule_builds(name: str) -> None:
    node = composed(f"scheduler={name}").scheduler
    if name == "none":
        assert node == {"_target_": None}
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build(node, "scheduler", LRScheduler, optimizer, total_steps=10, mode="max")
    assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)


def without_settings(target: Callable[..., Any], node: dict[str, Any]) -> set[str]:
    return set(node) - {"_target_"} - set(inspect.signature(target).parameters)


@pytest.mark.parametrize(
    ("group", "name"), [param for param in FILES if param.values[0] in ("data", "logger", "scheduler", "optimizer")]
)
def test_every_key_beside_a_target_is_an_argument_of_it(group: str, name: str) -> None:
    section = composed(f"{group}={name}", *needed(group, name)).to_dict()[group]
    node = {"data": lambda: section["reader"], "logger": lambda: section[name]}.get(group, lambda: section)()
    if node["_target_"] is not None:
        kinds: dict[str, Any] = {"data": Reader, "logger": Logger, "scheduler": LRScheduler, "optimizer": Optimizer}
        assert without_settings(resolve(node["_target_"], group, kinds[group]), node) == set()


@pytest.mark.parametrize("key", ["model.latent_dim", "optimizer.lr"])
def test_common_keys_are_in_every_file_of_a_group(key: str) -> None:
    section, name = key.split(".")
    for stem in group(section):
        assert name in composed(f"{section}={stem}", *needed(section, stem)).to_dict()[section], stem


def test_every_group_is_a_section_of_the_config() -> None:
    assert set(GROUPS) - {"experiment", "hydra"} <= set(values())


# What a Trainer takes that is not for a config: the job sets it, or has no use for it.
SET_BY_THE_JOB = {"logger", "callbacks", "plugins", "default_root_dir", "enable_model_summary"}
NOT_USED = {
    "enable_checkpointing",  # what is written when is in `selection`
    "use_distributed_sampler",  # batches are functions of their number and the rank
    "reload_dataloaders_every_n_epochs",
    "overfit_batches",
    "limit_test_batches",  # `evaluation.puzzles` says how many
    "limit_predict_batches",
    "barebones",
    "model_registry",
    "enable_autolog_hparams",
}


def test_the_trainers_config_has_every_argument_of_lightning_but_those_of_the_job() -> None:
    known = set(inspect.signature(pl.Trainer).parameters)
    keys = set(read("trainer", "base")) - {"ema", "checkpoint_every_n_steps"}  # of callbacks
    assert keys <= known
    assert keys & (SET_BY_THE_JOB | NOT_USED) == {"callbacks"}  # to which the job adds its own
    assert known - keys - SET_BY_THE_JOB - NOT_USED == set()


@pytest.mark.parametrize("name", group("trainer"))
def test_every_trainer_has_all_keys_of_the_base(name: str) -> None:
    assert set(asdict(composed(f"trainer={name}").trainer)) == set(read("trainer", "base"))


def test_the_trainers_config_is_taken_by_lightning(tmp_path: Path) -> None:
    settings = asdict(composed().trainer) | {"precision": "32-true", "enable_progress_bar": False, "max_epochs": 3}
    for name in ("ema", "checkpoint_every_n_steps", "callbacks"):
        del settings[name]
    trainer = pl.Trainer(**settings, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    assert trainer.max_epochs == 3
