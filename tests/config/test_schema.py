from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import OmegaConf

from fragrecon.config import saved, schema
from fragrecon.config.build import _resolve, build
from fragrecon.config.saved import _decisive, config_hash, overlay
from fragrecon.config.schema import Config, DataConfig, EvaluationConfig, RobustnessConfig, parse
from fragrecon.data.corruption import Corruption
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel
from fragrecon.models.conv import ConvAutoencoder
from fragrecon.models.supervised import SupervisedClassifier
from fragrecon.objectives.base import Objective
from fragrecon.run import CONF, GROUPS, compose
from fragrecon.runs.modules import Facts, build_objective

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
    """A composed config as plain values of one's own."""
    return copy.deepcopy(composed(*overrides).to_dict())


def changed(key: str, value: Any) -> dict[str, Any]:
    config = values()
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
    return {str(key): value for key, value in contents.items()}


# Types ---------------------------------------------------------------------------------------------------------------


def test_the_default_config_parses_to_what_its_files_say() -> None:
    config = composed()
    assert (config.mode, config.seed, config.data.name) == ("train", 0, "synthetic")
    assert config.data.image_shape == (3, 64, 64)
    assert config.data.fragment_shape == (3, 16, 16)
    assert config.model == {"_target_": CONV, "latent_dim": 128, "encoder_channels": [32, 64]}
    assert config.trainer["max_epochs"] == config.data.epochs
    assert config.selection.monitor == "val_mean_clustering_score"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", "three", r"seed='three' should be of type int"),
        ("seed", 1.0, r"seed=1\.0 should be of type int"),
        ("seed", True, r"seed=True should be of type int"),
        ("seed", None, r"seed=None should be of type int"),
        ("mode", 3, r"mode=3 should be of type str"),
        ("data.download", 1, r"data\.download=1 should be of type bool"),
        ("data.download", "yes", r"data\.download='yes' should be of type bool"),
        ("data.image_size", 64, r"data\.image_size=64 should be of type list\[int\]"),
        ("data.image_size", [64, "64"], r"data\.image_size\[1\]='64' should be of type int"),
        ("data.augment", [1.0], r"data\.augment=\[1\.0\] should be of type dict\[str, float\]"),
        ("data.corruption.share", "half", r"data\.corruption\.share='half' should be of type float"),
        ("data.corruption", 0.5, r"data\.corruption=0\.5 should be of type dict\[str, float\]"),
        ("data.images_range", 4, r"data\.images_range=4 should be of type list\[int\]"),
        ("data.images_range", [2.0, 4], r"data\.images_range\[0\]=2\.0 should be of type int"),
        ("data.augment.hue", "strong", r"data\.augment\.hue='strong' should be of type float"),
        ("data.augment.hue", True, r"data\.augment\.hue=True should be of type float"),
        ("data.batches_per_epoch", 2.5, r"data\.batches_per_epoch=2\.5 should be of type int"),
        ("data.cache_dir", 7, r"data\.cache_dir=7 should be of type str"),
        ("selection.min_delta", "small", r"selection\.min_delta='small' should be of type float"),
        ("selection.min_delta", False, r"selection\.min_delta=False should be of type float"),
        ("evaluation", None, r"evaluation=None should be a group of keys: puzzles, "),
        ("evaluation", [3], r"evaluation=\[3\] should be a group of keys: puzzles, "),
        ("model", "conv", r"model='conv' should be of type dict"),
        ("data.root", "???", r"data\.root must be set: data\.root=VALUE"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        parse(changed(key, value))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("selection.min_delta", 1, 1.0),
        ("data.augment.rotation", 0, 0.0),
        ("data.batches_per_epoch", 3, 3),
        ("data.batches_per_epoch", None, None),
        ("data.image_size", (32, 64), [32, 64]),
        ("data.fragment_size", [8, 16], [8, 16]),
        ("data.fragment_size", [8], [8, 8]),
        ("data.augment", {}, {}),
        ("resume", "some/folder", "some/folder"),
    ],
)
def test_a_value_of_the_right_type_is_kept(key: str, value: Any, expected: Any) -> None:
    found: Any = parse(changed(key, value)).to_dict()
    for name in key.split("."):
        found = found[name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sead", "seed"),
        ("data.fragment_sise", "fragment_size"),
        ("evaluation.puzles", "puzzles"),
        ("selection.patiense", "patience"),
        ("checkpoint.every_n_step", "every_n_steps"),
        ("sweep.nam", "name"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"^unknown key {key}; did you mean '{near}'\? Valid: .*{near}"):
        parse(changed(key, 1))


@pytest.mark.parametrize(
    "key", ["seed", "data", "data.channels", "evaluation.restarts", "selection.mode", "sweep.name"]
)
def test_a_missing_key_is_refused_by_name(key: str) -> None:
    config = values()
    *path, last = key.split(".")
    section = config
    for name in path:
        section = section[name]
    del section[last]
    with pytest.raises(ConfigError, match=f"^missing key {key}$"):
        parse(config)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "64"])
def test_training_keeps_weights_in_float32(precision: str) -> None:
    with pytest.raises(ConfigError, match=f"trainer.precision={precision} .* choose auto, 32-true, bf16-mixed"):
        composed(f"trainer.precision='{precision}'")
    assert composed("mode=bench", f"trainer.precision={precision}").trainer["precision"] is not None


def test_a_reference_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        parse(OmegaConf.create(changed("data.name", "${nowhere}")))


# Values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("seed", 0),
        ("data.images_per_puzzle", 1),
        ("data.puzzles_per_batch", 1),
        ("data.batches_per_epoch", 1),
        ("evaluation.puzzles", 0),
        ("evaluation.validation_puzzles", 1),
        ("evaluation.train_puzzles", 0),
        ("evaluation.batch_size", 1),
        ("evaluation.seed", 0),
        ("evaluation.restarts", 1),
        ("evaluation.memory_mb", 1),
        ("selection.patience", 0),
        ("checkpoint.every_n_steps", 1),
    ],
)
def test_a_number_below_its_least_is_refused_by_name(key: str, least: int) -> None:
    parse(changed(key, least))
    for value in (least - 1, -100):
        with pytest.raises(ConfigError, match=rf"^{key}={value} should be at least {least}$"):
            parse(changed(key, value))


CORRUPTION = ("share", "gap", "noise", "jitter", "rotation")
RANGE = (
    r"should be \[least,most\], from 2 up to the 80 images of a batch "
    r"\(data\.images_per_puzzle \* data\.puzzles_per_batch\)"
)
NO_RANGES: list[list[int]] = [[], [4], [4, 8, 16], [8, 4], [1, 4], [0, 0], [-3, 4], [4, 81]]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.image_size", [64], r"data\.image_size=\[64\] should be \[height,width\]"),
        ("data.image_size", [64, 64, 3], r"data\.image_size=.*should be \[height,width\]"),
        ("data.image_size", [], r"data\.image_size=\[\] should be \[height,width\]"),
        ("data.image_size", [64, 0], r"data\.image_size=0 should be at least 1"),
        ("data.fragment_size", "16", r"data\.fragment_size='16' should be"),
        ("data.fragment_size", 16.0, r"data\.fragment_size=16\.0 should be"),
        ("data.fragment_size", True, r"data\.fragment_size=True should be"),
        ("data.fragment_size", None, r"data\.fragment_size=None should be"),
        ("data.fragment_size", [], r"data\.fragment_size=\[\] should be"),
        ("data.fragment_size", [16, 16, 16], r"data\.fragment_size=.* should be"),
        ("data.fragment_size", [16, True], r"data\.fragment_size=.* should be"),
        ("data.channels", 2, r"data\.channels=2 should be 1 \(grey\) or 3 \(colour\)"),
        ("data.channels", 0, r"data\.channels=0"),
        ("data.augment.hue", -0.1, r"data\.augment\.hue=-0\.1 should not be negative"),
        *(
            (f"data.corruption.{key}", -0.1, rf"data\.corruption\.{key}=-0\.1 should not be negative; 0 switches")
            for key in CORRUPTION
        ),
        ("data.corruption.share", 1.5, r"data\.corruption\.share=1\.5"),
        ("data.corruption.rotation", 1.5, r"data\.corruption\.rotation=1\.5"),
        ("data.corruption.noise", float("nan"), r"data\.corruption\.noise=nan"),
        *(("data.images_range", value, rf"data\.images_range={re.escape(str(value))} {RANGE}") for value in NO_RANGES),
        ("selection.mode", "most", r"selection\.mode='most' should be min or max"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(changed(key, value))


@pytest.mark.parametrize("value", [None, [2, 2], [2, 80], [4, 32], [80, 80]])
def test_a_range_of_images_that_a_batch_can_hold_is_kept(value: list[int] | None) -> None:
    assert parse(changed("data.images_range", value)).data.images_range == value


@pytest.mark.parametrize(("images", "puzzles"), [(5, 8), (10, 4), (40, 1)])
def test_a_batch_has_as_many_images_as_its_puzzles_together(images: int, puzzles: int) -> None:
    config = values(f"data.images_per_puzzle={images}", f"data.puzzles_per_batch={puzzles}")
    config["data"]["images_range"] = [2, 40]
    assert parse(config).data.images_range == [2, 40]
    config["data"]["images_range"] = [2, 41]
    with pytest.raises(ConfigError, match=r"up to the 40 images of a batch"):
        parse(config)


def test_corruption_is_kept_as_it_is_given() -> None:
    given = {"share": 1.0, "gap": 3, "noise": 0.12, "jitter": 0.0, "rotation": 1.0}
    found = parse(changed("data.corruption", given)).data.corruption
    assert found == given
    assert {type(value) for value in found.values()} == {float}
    assert parse(changed("data.corruption", None)).data.corruption is None


def test_the_file_names_all_kinds_of_corruption_and_switches_them_off() -> None:
    corruption = composed().data.corruption
    assert corruption is not None
    assert tuple(corruption) == CORRUPTION
    assert Corruption(**corruption) == Corruption()
    assert composed().data.images_range is None


@pytest.mark.parametrize(("size", "shape"), [(8, (3, 8, 8)), ([8, 16], (3, 8, 16)), ([32], (3, 32, 32))])
def test_the_shape_of_a_fragment_follows_from_its_size(size: Any, shape: tuple[int, int, int]) -> None:
    assert parse(changed("data.fragment_size", size)).data.fragment_shape == shape


HARDER = RobustnessConfig(puzzles=7, images=[2, 5], fragment_size=[8], noise=[0.5], rotation=[1.0], jitter=[], gap=[1])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("puzzles", 0, r"=0 should be above 0"),
        ("images", [2, 0], r"=\[2, 0\] should be above 0"),
        ("fragment_size", [-8], r"=\[-8\] should be above 0"),
        ("noise", [0.0], r"=\[0\.0\] should be above 0"),
        ("rotation", [0.5, -0.1], r"=\[0\.5, -0\.1\] should be above 0"),
        ("jitter", [0], r"=\[0\.0\] should be above 0"),
        ("gap", [0], r"=\[0\] should be above 0"),
        ("puzzles", 1001, r"=1001 should be at most evaluation\.puzzles=1000"),
        ("puzzles", None, r"=None should be of type int"),
        ("gap", [1.5], r"\[0\]=1\.5 should be of type int"),
        ("noise", ["much"], r"\[0\]='much' should be of type float"),
        ("noise", 0.1, r"=0\.1 should be of type list"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused_by_name(key: str, value: Any, message: str) -> None:
    harder = {**vars(HARDER), key: value}
    with pytest.raises(ConfigError, match=rf"evaluation\.robustness\.{key}{message}"):
        parse(changed("evaluation.robustness", harder))


def test_conditions_are_kept_as_they_are_given_and_whole() -> None:
    assert parse(changed("evaluation.robustness", vars(HARDER))).evaluation.robustness == HARDER
    most = {**vars(HARDER), "puzzles": 1000, "noise": [1]}
    found = parse(changed("evaluation.robustness", most)).evaluation.robustness
    assert found is not None
    assert found.noise == [1.0]
    assert isinstance(found.noise[0], float)
    del most["gap"]
    with pytest.raises(ConfigError, match=r"missing key evaluation\.robustness\.gap"):
        parse(changed("evaluation.robustness", most))


# Hash, saving, opening -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 1),
        ("init_from", "some/run"),
        ("data.name", "other"),
        ("data.fragment_size", 8),
        ("data.augment.hue", 0.1),
        ("data.corruption.noise", 0.1),
        ("data.images_range", [2, 4]),
        ("model.latent_dim", 64),
        ("objective._target_", "fragrecon.objectives.cross_entropy.CrossEntropy"),
        ("optimizer.lr", 0.1),
        ("scheduler._target_", "fragrecon.training.schedules.warmup_cosine"),
        ("trainer.max_epochs", 3),
        ("evaluation.seed", 1),
        ("selection.patience", 3),
    ],
)
def test_the_hash_changes_with_what_decides_the_numbers(key: str, value: Any) -> None:
    assert config_hash(parse(changed(key, value))) != config_hash(composed())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mode", "evaluate"),
        ("run", "some/run"),
        ("resume", "some/run"),
        ("logger", {"_target_": "fragrecon.training.loggers.wandb"}),
        ("sweep.name", "another"),
        ("checkpoint.every_n_steps", 7),
        ("data.cache_dir", "/some/where"),
        ("trainer.enable_progress_bar", False),
        ("embed", {"split": "train"}),
    ],
)
def test_the_hash_stays_where_only_names_and_places_change(key: str, value: Any) -> None:
    assert config_hash(parse(changed(key, value))) == config_hash(composed())


@dataclass
class LaterData(DataConfig):
    """With keys that came later."""

    mirrored: bool = False
    colours: list[int] = field(default_factory=lambda: [3])


@dataclass
class Later(Config):
    depth: int = 0


def test_a_key_that_comes_later_changes_the_hash_only_where_it_is_used() -> None:
    now = composed()
    data = LaterData(**vars(now.data))
    later = Later(**{**vars(now), "data": data})
    assert config_hash(later) == config_hash(now)
    for used in (replace(later, depth=1), replace(later, data=replace(data, mirrored=True))):
        assert config_hash(used) != config_hash(now)
    assert config_hash(replace(later, data=replace(data, colours=[3, 1]))) != config_hash(now)
    assert config_hash(replace(later, data=replace(data, colours=[3]))) == config_hash(now)


@pytest.mark.parametrize(
    ("key", "inert"),
    [
        ("logger", True),
        ("logger.offline", True),
        ("sweep.name", True),
        ("data.cache_dir", True),
        ("trainer.enable_progress_bar", True),
        ("hydra.launcher.n_jobs", True),
        ("data", False),
        ("data.root", False),
        ("data.cache_dirs", False),
        ("trainer", False),
        ("seed", False),
        ("loggers", False),
        ("model.logger", False),
    ],
)
def test_keys_that_have_no_part_in_what_a_job_does(key: str, inert: bool) -> None:
    assert saved.is_inert(key) == inert


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
    assert saved.load(save(parse(changed("data.name", text)), tmp_path)).data.name == text


@pytest.mark.parametrize("key", ["data.root", "data.cache_dir", "init_from"])
def test_paths_are_made_whole_so_that_a_saved_config_can_be_used_from_any_folder(
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


ADDED: dict[str, Any] = {
    "data.images_range": DataConfig.images_range,
    "data.corruption": DataConfig.corruption,
    "evaluation.memory_mb": EvaluationConfig.memory_mb,
    "evaluation.robustness": EvaluationConfig.robustness,
}
LATER = ("evaluation=robustness", "evaluation.memory_mb=7", "data.corruption.share=0.5", "data.images_range=[2,5]")


@pytest.mark.parametrize("key", ADDED)
def test_a_config_that_was_saved_before_a_key_existed_opens_with_what_it_meant(key: str, tmp_path: Path) -> None:
    config = OmegaConf.create(values(*LATER))
    section, _, name = key.rpartition(".")
    del OmegaConf.select(config, section)[name]
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    opened = saved.load(tmp_path / "config.yaml")
    assert getattr(getattr(opened, section), name) == ADDED[key]
    expected = values(*LATER)
    expected[section][name] = ADDED[key]
    assert opened == parse(expected)
    assert opened != composed(*LATER)


def test_what_came_later_means_what_the_files_say() -> None:
    for key, value in ADDED.items():
        if key != "data.corruption":  # of which the files say all that is off
            assert OmegaConf.select(OmegaConf.create(values()), key) == value
    assert Corruption(**(DataConfig.corruption or {})) == Corruption(**values()["data"]["corruption"])


def test_a_reconstruction_that_was_scored_before_networks_looked_at_it_is_the_same_run() -> None:
    known = parse(changed("evaluation.reconstruction", {"ratio": 0.5, "perceptual": []}))
    assert parse(changed("evaluation.reconstruction", {"ratio": 0.5})) == known
    looked_at = parse(changed("evaluation.reconstruction", {"ratio": 0.5, "perceptual": ["features"]}))
    assert _decisive(known.evaluation)["reconstruction"] == {"ratio": 0.5}
    assert config_hash(looked_at) != config_hash(known)


@pytest.mark.parametrize("name", schema.PERCEPTUAL)
def test_networks_that_can_look_are_asked_for_by_name(name: str) -> None:
    asked = {"ratio": 0.5, "perceptual": [name]}
    found = parse(changed("evaluation.reconstruction", asked)).evaluation.reconstruction
    assert found is not None
    assert found.perceptual == [name]
    with pytest.raises(ConfigError, match=rf"'{name}s' is not known; did you mean '{name}'"):
        parse(changed("evaluation.reconstruction", {"ratio": 0.5, "perceptual": [f"{name}s"]}))
    with pytest.raises(ConfigError, match=r"perceptual=.* should be of type list"):
        parse(changed("evaluation.reconstruction", {"ratio": 0.5, "perceptual": name}))


def test_networks_need_two_images_to_compare_distributions() -> None:
    for puzzles, images, refused in ((1, 1, True), (2, 1, False), (1, 2, False), (0, 1, False)):
        config = changed("evaluation.reconstruction", {"ratio": 0.5, "perceptual": ["features"]})
        config["evaluation"]["puzzles"], config["data"]["images_per_puzzle"] = puzzles, images
        if refused:
            with pytest.raises(ConfigError, match="at least 2 test images"):
                parse(config)
        else:
            assert parse(config).evaluation.puzzles == puzzles


@pytest.mark.parametrize("text", ["- 1\n", "3\n", "a: [1\n", "\tx: 1\n", "mode: ${x\n", "mode: ${x}\n", ""])
def test_what_is_no_saved_config_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        saved.load(path)


def test_a_missing_saved_config_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        saved.load(tmp_path / "absent.yaml")


def test_schema_and_runs_import_neither_torch_nor_hydra() -> None:
    modules = "fragrecon.config.schema, fragrecon.runs.read"
    code = f"import sys, {modules}; print(*{{'torch', 'hydra', 'lightning'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# Building ------------------------------------------------------------------------------------------------------------


def test_build_makes_what_a_node_names() -> None:
    layer = build({"_target_": "torch.nn.Linear", "bias": False}, "layer", 3, out_features=2)
    assert isinstance(layer, torch.nn.Linear)
    assert (layer.in_features, layer.out_features) == (3, 2)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_facts_go_only_to_those_that_ask() -> None:
    conv = build({"_target_": CONV, "latent_dim": 4, "encoder_channels": [2]}, "model", **FACTS)
    assert isinstance(conv, ConvAutoencoder)
    assert conv.fragment_shape == (3, 16, 16)
    node = {"_target_": "fragrecon.models.supervised.SupervisedClassifier"}
    assert build(node, "model", **FACTS).head[-1].out_features == 10
    assert build(node | {"num_classes": 4}, "model", **FACTS).head[-1].out_features == 4


def test_an_unknown_argument_is_refused_with_the_nearest_that_can_be_set() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.latent_dims is not known to .*; did you mean 'latent_dim'\?"
    ) as error:
        build({"_target_": CONV, "latent_dims": 4}, "model", **FACTS)
    assert "fragment_shape" not in str(error.value)  # that comes from the data
    with pytest.raises(ConfigError, match=r"optimizer\.lrr is not known .*did you mean 'lr'") as error:
        build({"_target_": "torch.optim.Adam", "lrr": 4}, "optimizer", [torch.nn.Parameter(torch.zeros(1))])
    assert "params" not in str(error.value)


def test_a_missing_argument_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"model: .*ConvAutoencoder .*'fragment_shape'"):
        build({"_target_": CONV}, "model")


def test_an_argument_given_twice_is_refused() -> None:
    node = {"_target_": "torch.optim.SGD", "params": 3}
    with pytest.raises(ConfigError, match=r"optimizer: .*'params'"):
        build(node, "optimizer", [torch.nn.Parameter(torch.zeros(1))])


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
        build(node, "node", [torch.nn.Parameter(torch.zeros(1))])


def test_what_a_target_says_of_its_own_is_left_as_it_is() -> None:
    with pytest.raises(ConfigError, match=r"^model\.latent_dim=0 should be at least 1$"):
        build({"_target_": CONV, "latent_dim": 0}, "model", **FACTS)


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
        "fragrecon.training.loggers.none.__globals__",
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
        build({"_target_": target}, "model")


def test_a_refused_target_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="is refused"):
        build({"_target_": "trap.Thing"}, "model")


def test_a_node_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\._target_"):
        build({"latent_dim": 3}, "model")


# Overlay -------------------------------------------------------------------------------------------------------------


def overlaid(saved: tuple[str, ...], *given: str) -> Config:
    return overlay(composed(*saved), composed(*given), given, GROUPS)


def differences(one: Any, other: Any, path: str = "") -> set[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return set() if one == other else {path}
    keys = one.keys() | other.keys()
    prefix = f"{path}." if path else ""
    return {found for key in keys for found in differences(one.get(key), other.get(key), prefix + key)}


SAVED = (
    "seed=5",
    "model=linear",
    "model.latent_dim=32",
    "data.epochs=50",
    "data.puzzles_per_batch=4",
    "optimizer=adamw",
)


def test_a_config_under_nothing_stays_as_saved() -> None:
    assert overlaid(SAVED) == composed(*SAVED)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (("evaluation.puzzles=7",), {"evaluation.puzzles"}),
        (("+model.dropout=0.3", "optimizer.lr=0.5"), {"model.dropout", "optimizer.lr"}),
        (("+model.hidden=[8]",), {"model.hidden"}),
        (("data.augment={hue:0.1}",), {"data.augment.hue"}),
        (("data.reader.train_images=99",), {"data.reader.train_images"}),
        (("logger=wandb",), {f"logger.{k}" for k in read("logger", "wandb") if k not in ("name", "group")}),
        (("data.epochs=70",), {"data.epochs", "trainer.max_epochs"}),
        (("trainer.max_epochs=70",), {"trainer.max_epochs"}),
        (("trainer=gpu",), {"trainer.accelerator"}),
        (("trainer=gpu", "data.epochs=70"), {"trainer.accelerator", "data.epochs", "trainer.max_epochs"}),
        (("trainer=gpu", "trainer.max_epochs=3"), {"trainer.accelerator", "trainer.max_epochs"}),
    ],
)
def test_only_what_is_given_changes(given: tuple[str, ...], found: set[str]) -> None:
    assert differences(composed(*SAVED).to_dict(), overlaid(SAVED, *given).to_dict()) == found


def test_a_length_of_training_set_apart_stays_apart() -> None:
    saved = (*SAVED, "trainer.max_epochs=3")
    assert overlaid(saved, "data.epochs=70").trainer["max_epochs"] == 3
    assert overlaid(saved, "trainer=gpu").trainer["max_epochs"] == 50


def test_a_group_takes_its_whole_section_over() -> None:
    config = overlaid(SAVED, "optimizer=adam", "model=supervised", "model.latent_dim=16")
    assert config.optimizer == composed().optimizer
    assert config.model == composed("model=supervised", "model.latent_dim=16").model
    assert config.objective == composed("model=supervised").objective
    assert (config.seed, config.data) == (5, composed(*SAVED).data)


def test_a_given_value_that_is_also_the_default_counts() -> None:
    assert overlaid(SAVED, "seed=0").seed == 0
    assert overlaid(SAVED, "model.latent_dim=128").model["latent_dim"] == 128


def test_an_overlay_is_checked_as_any_config_is() -> None:
    fresh = composed("data.puzzles_per_batch=2")
    saved = composed(*SAVED)
    broken = parse(saved.to_dict())
    broken.selection.mode = "most"
    with pytest.raises(ConfigError, match=r"selection\.mode"):
        overlay(broken, fresh, ["data.puzzles_per_batch=2"], GROUPS)


def test_an_overlay_leaves_both_configs_as_they_are() -> None:
    saved, fresh = parse(values(*SAVED)), parse(values("data.epochs=70", "trainer=gpu"))
    overlay(saved, fresh, ["data.epochs=70", "trainer=gpu"], GROUPS)
    assert saved == composed(*SAVED)
    assert fresh == composed("data.epochs=70", "trainer=gpu")


def test_an_experiment_cannot_be_laid_over_a_run() -> None:
    given = ["experiment=case_study", "data.root=x"]
    with pytest.raises(ConfigError, match="experiment"):
        overlay(composed(), composed(*given), given, GROUPS)


# The files of conf/ --------------------------------------------------------------------------------------------------


def needed(group: str, name: str) -> list[str]:
    """What a file leaves for the user to set."""
    return ["data.root=FOLDER"] if group == "experiment" or read(group, name).get("root") == "???" else []


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_composes_alone(group: str, name: str) -> None:
    config = composed(f"{group}={name}", *needed(group, name))
    assert parse(config.to_dict()) == config


@pytest.mark.parametrize("name", [name for name in group("data") if needed("data", name)])
def test_data_that_lies_somewhere_asks_where(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^data\.root must be set"):
        compose([f"data={name}"])


@pytest.mark.parametrize(("group", "name"), FILES)
def test_every_file_says_first_what_it_is(group: str, name: str) -> None:
    lines = (CONF / group / f"{name}.yaml").read_text().splitlines()
    assert (
        any(line.startswith("# ") and not line.startswith("# @package") for line in lines[:2]) or group == "optimizer"
    )


@pytest.mark.parametrize("name", group("data"))
def test_data_is_named_as_its_file(name: str) -> None:
    assert composed(f"data={name}", *needed("data", name)).data.name == name


@pytest.mark.parametrize("name", group("model"))
def test_every_model_builds_with_the_objective_it_names(name: str) -> None:
    config = composed(f"model={name}")
    model = build(config.model, "model", **FACTS)
    assert isinstance(model, FragmentModel)
    assert isinstance(model, SupervisedClassifier) == (name == "supervised")
    build_objective(config.objective, Facts(**FACTS), model.latent_dim).check(model)


@pytest.mark.parametrize("name", group("objective"))
def test_every_objective_builds(name: str) -> None:
    assert isinstance(build_objective(composed(f"objective={name}").objective, Facts(**FACTS), 128), Objective)


@pytest.mark.parametrize("name", group("optimizer"))
def test_every_optimizer_builds_with_its_rate(name: str) -> None:
    node = composed(f"optimizer={name}", "optimizer.lr=0.25").optimizer
    optimizer = build(node, "optimizer", [torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("name", group("scheduler"))
def test_every_schedule_builds(name: str) -> None:
    node = composed(f"scheduler={name}").scheduler
    if name == "none":
        assert node == {"_target_": None}
        return
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build(node, "scheduler", optimizer, total_steps=10, mode="max")
    assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)


def without_settings(target: Callable[..., Any], node: dict[str, Any]) -> set[str]:
    return set(node) - {"_target_"} - set(inspect.signature(target).parameters)


@pytest.mark.parametrize(
    ("group", "name"), [param for param in FILES if param.values[0] in ("data", "logger", "scheduler", "optimizer")]
)
def test_every_key_beside_a_target_is_an_argument_of_it(group: str, name: str) -> None:
    section = composed(f"{group}={name}", *needed(group, name)).to_dict()[group]
    node = section["reader"] if group == "data" else section
    if node["_target_"] is not None:
        assert without_settings(_resolve(node["_target_"], group), node) == set()


@pytest.mark.parametrize("key", ["model.latent_dim", "optimizer.lr"])
def test_what_one_sweeps_is_in_every_file_of_its_group(key: str) -> None:
    section, name = key.split(".")
    for stem in group(section):
        assert name in composed(f"{section}={stem}").to_dict()[section], stem


def test_every_group_is_a_section_of_the_config() -> None:
    assert set(GROUPS) - {"experiment", "hydra"} <= set(values())


# What a Trainer takes that is not for a config: the job sets it, or has no use for it.
SET_BY_THE_JOB = {"logger", "callbacks", "plugins", "default_root_dir", "enable_model_summary"}
NOT_USED = {
    "enable_checkpointing",  # what is written when is in `checkpoint` and `selection`
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
    keys = set(read("trainer", "base"))
    assert keys <= known
    assert keys & (SET_BY_THE_JOB | NOT_USED) == set()
    assert known - keys - SET_BY_THE_JOB - NOT_USED == set()


@pytest.mark.parametrize("name", group("trainer"))
def test_every_trainer_has_all_keys_of_the_base(name: str) -> None:
    assert set(composed(f"trainer={name}").trainer) == set(read("trainer", "base"))


def test_the_trainers_config_is_taken_by_lightning(tmp_path: Path) -> None:
    settings = composed().trainer | {"precision": "32-true", "enable_progress_bar": False}
    trainer = pl.Trainer(**settings, logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    assert trainer.max_epochs == composed().data.epochs


@pytest.mark.parametrize(
    "value", ["noise=[nan]", "noise=[inf]", "noise=[-0.1]", "rotation=[1.5]", "jitter=[2.0]", "gap=[0]", "images=[-2]"]
)
def test_a_condition_out_of_range_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.robustness\.{value.partition('=')[0]}=.* should be above 0"):
        compose(["evaluation=robustness", f"evaluation.robustness.{value}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.probe.classifiers=[mpl]", r"probe\.classifiers: 'mpl' is not known; did you mean 'mlp'"),
        ("evaluation.probe.classifiers=[]", r"probe\.classifiers names none; choose from mlp, linear"),
        ("evaluation.probe.projections=[tsme]", r"probe\.projections: 'tsme' is not known; did you mean 'tsne'"),
        ("evaluation.probe.noise=-1", r"probe\.noise=-1.0 should not be negative"),
        ("evaluation.probe.weight_decay=-1", r"probe\.weight_decay=-1.0 should not be negative"),
        ("evaluation.probe.scaling=al", r"probe\.scaling: 'al' is not known; did you mean 'all'"),
        ("evaluation.probe.epochs=0", r"probe\.epochs=0 should be above 0"),
        ("evaluation.probe.hidden=[128,0]", r"probe\.hidden=\[128, 0\] should be above 0"),
        ("evaluation.probe.neighbours=[]", r"probe\.neighbours is empty, but knn should choose from it"),
    ],
)
def test_classifiers_that_cannot_be_trained_are_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["evaluation=probe", override])


def test_samples_that_cannot_be_scored_are_refused() -> None:
    for override, message in (
        ("evaluation.generation.samples=0", "samples=0 should be at least 1"),
        ("evaluation.generation.perceptual=[lpips]", "'lpips' is not known"),
    ):
        with pytest.raises(ConfigError, match=message):
            compose(["evaluation=generation", override])
    with pytest.raises(ConfigError, match=r"compares distributions; set \.samples to 2 at least"):
        compose(["evaluation=generation", "evaluation.generation.samples=1", "evaluation.generation.perceptual=[fid]"])
