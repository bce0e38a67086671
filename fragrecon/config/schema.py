"""The configuration as the program knows it: types, cross-field checks, its hash, and how its nodes become objects.

Needs OmegaConf, but neither Hydra nor torch, so that a saved config can be opened anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fragrecon.errors import ConfigError, nearest

Node = dict[str, Any]
"""A mapping with ``_target_``, the dotted name of what it builds, and its arguments."""


PERCEPTUAL = ("features", "lpips", "fid")
"""What networks can tell of reconstructions, by `fragrecon.evaluation.pixels.perceptual`."""

PROBES = ("mlp", "linear", "knn", "logistic", "svm")
"""Names of the probes of `fragrecon.evaluation.probes`."""

COMPILERS = ("default", "reduce-overhead", "max-autotune")
"""Modes of ``torch.compile``."""

UNTRAINABLE = ("16-true", "bf16-true", "64", "64-true", "transformer-engine", "transformer-engine-float16")
"""Precisions of Lightning that change the weights'."""

PROJECTIONS = ("pca", "tsne", "umap")
"""Ways to bring embeddings into a plane, by `fragrecon.report.figures.projections`."""


@dataclass
class DataConfig:
    """Which images, and how they become puzzles. ``image_size`` and ``fragment_size`` are (height, width) in pixels.

    ``image_height`` leaves the width free: images keep their aspect, at widths that are multiples of ``width_step``.
    ``image_size`` then only tells the aspect of an image of nominal size, which ``image_shape`` and ``fragment_shape``
    are.
    """

    name: str
    reader: Node
    root: str | None
    image_size: list[int]
    channels: int
    fragment_size: Any
    images_per_puzzle: int
    puzzles_per_batch: int
    batches_per_epoch: int | None
    epochs: int
    download: bool
    cache_dir: str | None
    augment: dict[str, float]
    corruption: dict[str, float] | None = None
    images_range: list[int] | None = None
    image_height: int | None = None
    width_step: int = 16

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = self.image_size
        if self.image_height is not None:
            height, width = self.image_height, max(1, round(width * self.image_height / height))
        return self.channels, height, width

    @property
    def fragment_shape(self) -> tuple[int, int, int]:
        if self.free_width:
            return self.image_shape
        size = self.fragment_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.channels, height, width

    @property
    def free_width(self) -> bool:
        return self.image_height is not None


@dataclass
class RobustnessConfig:
    """Conditions to score under besides the usual: along each axis, a list of values."""

    puzzles: int
    images: list[int]
    fragment_size: list[int]
    noise: list[float]
    rotation: list[float]
    jitter: list[float]
    gap: list[int]


@dataclass
class ReconstructionConfig:
    """How reconstruction is scored: the share of the patches that are hidden from models that fill in, and which
    networks look at the outcome (`PERCEPTUAL`).
    """

    ratio: float
    perceptual: list[str] = field(default_factory=list)


@dataclass
class ProbeConfig:
    """Which classifiers of frozen embeddings are trained, and how.

    ``hidden`` are the widths of the MLP; it and the linear probe learn by Adam at the rate ``lr`` for ``epochs``. The
    MLP alone is regularised: by ``noise`` on its inputs, by ``weight_decay``, and by ``scaling`` (each, all) its inputs
    to deviation 1 each by itself or all by one factor.
    ``neighbours`` and ``strengths`` (inverse regularisation) are tried out on the validation part. At most ``images``
    of the training part are used, of which the support vector machine takes the first ``svm_images``.
    """

    classifiers: list[str]
    hidden: list[int]
    epochs: int
    batch_size: int
    lr: float
    neighbours: list[int]
    strengths: list[float]
    images: int | None
    svm_images: int
    projections: list[str]
    noise: float = 0.0
    weight_decay: float = 0.0
    scaling: str = "each"


@dataclass
class GenerationConfig:
    """How many samples of the prior are decoded, and which networks look at them (of `PERCEPTUAL`, not lpips)."""

    samples: int
    perceptual: list[str]


@dataclass
class EvaluationConfig:
    """How models are scored: by which protocols, and on how many puzzles."""

    puzzles: int
    validation_puzzles: int
    train_puzzles: int
    batch_size: int
    seed: int
    backend: str
    restarts: int
    memory_mb: int = 32
    robustness: RobustnessConfig | None = None
    clustering: bool = True
    reconstruction: ReconstructionConfig | None = None
    probe: ProbeConfig | None = None
    generation: GenerationConfig | None = None


@dataclass
class SelectionConfig:
    """Which logged figure picks the best checkpoint and stops training early."""

    monitor: str
    mode: str
    patience: int
    min_delta: float


@dataclass
class ComputeConfig:
    """How a model is computed in training, by `fragrecon.training.compute`: whether and in which of `COMPILERS` it is
    compiled, whether images lie in memory pixel by pixel, and whether activations are computed again in the backward
    pass rather than kept.
    """

    compile: str | None = None
    channels_last: bool = False
    gradient_checkpointing: bool = False


@dataclass
class CheckpointConfig:
    """How often, in optimizer steps, ``last.ckpt`` is written within an epoch; it is always written at an epoch's
    end.
    """

    every_n_steps: int


@dataclass
class EmbedConfig:
    """What ``mode=embed`` writes: of which split (test, validation or train), how many images, by default all, and in
    which format (npz or parquet).
    """

    split: str = "test"
    images: int | None = None
    format: str = "npz"


@dataclass
class DemoConfig:
    """Where ``mode=demo`` serves its page, by default at the first port from 7860 that is free, and whether it opens a
    browser.
    """

    port: int | None = None
    open: bool = True


@dataclass
class BenchConfig:
    """What ``mode=bench`` times: batches of how many images, after ``warmup`` steps that are not counted, each until
    its time is known within 10% or ``seconds`` are over.
    """

    batch_sizes: list[int] = field(default_factory=lambda: [1, 2, 4, 8, 16, 32])
    seconds: float = 5.0
    warmup: int = 2


@dataclass
class SweepConfig:
    """A sweep's folder under ``multirun/``; ``dir`` is that of a sweep to report on."""

    name: str
    dir: str | None = None


@dataclass
class Config:
    """All of a job's configuration, plain values only."""

    mode: str
    seed: int
    run: str | None
    resume: str | None
    init_from: str | None
    data: DataConfig
    model: Node
    objective: Node
    optimizer: Node
    scheduler: Node
    trainer: Node
    logger: Node
    evaluation: EvaluationConfig
    selection: SelectionConfig
    checkpoint: CheckpointConfig
    sweep: SweepConfig
    input: Any = None
    loose: bool | None = None
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


_RECONSTRUCTION = {"perceptual": 0.0, "perceptual_network": "features", "bottleneck": 0.0}
# Settings of objectives that came later, at the values that leave all as it was. There they are left out, so that a
# config equals one of before: its hash is the same, and figures compare.
_LATER: dict[str, dict[str, Any]] = {
    "fragrecon.objectives.reconstruction.Reconstruction": _RECONSTRUCTION,
    "fragrecon.objectives.vae.VAE": _RECONSTRUCTION,
}


def parse(config: DictConfig | Mapping[str, Any]) -> Config:
    """Turn a composed config into the typed one.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type or out of range, or values that exclude each
            other.
    """
    if isinstance(config, DictConfig):
        try:
            config = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
        except OmegaConfBaseException as error:
            raise ConfigError(str(error).splitlines()[0]) from None
    parsed = cast(Config, typed_as(Config, config, ""))
    parsed.objective = _without_later(parsed.objective)
    _anchor(parsed)
    _check(parsed)
    return parsed


def _without_later(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    later = _LATER.get(str(node.get("_target_")), {})
    used = {key: value for key, value in node.items() if key not in later or value != later[key]}
    return {key: _without_later(value) for key, value in used.items()}


def model_name(node: Node) -> str:
    """What a model is called on the command line: ``conv`` for ``fragrecon.models.conv.ConvAutoencoder``."""
    return str(node["_target_"]).split(".")[-2]


def class_name(config: Config) -> str:
    """What a model is called in tables and figures."""
    return str(config.model["_target_"].rpartition(".")[2])


def typed_as(kind: Any, value: Any, path: str) -> Any:
    """``value`` as the annotated type ``kind``; ints pass as floats, nothing else is converted."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r} should be a group of keys: {', '.join(f.name for f in fields(kind))}")
        hints = get_type_hints(kind)
        prefix = f"{path}." if path else ""
        for key in value:
            if key not in hints:
                raise ConfigError(f"unknown key {prefix}{key}{nearest(str(key), hints)}")
        # A key with a default came later: runs that were saved before it still open.
        needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
        if missing := [name for name in needed if name not in value]:
            raise ConfigError(f"missing key {prefix}{missing[0]}")
        return cast(Any, kind)(**{key: typed_as(hints[key], item, prefix + key) for key, item in value.items()})
    if value == "???":
        raise ConfigError(f"{path} must be set: {path}=VALUE")
    if type(None) in arguments:
        return None if value is None else typed_as(next(a for a in arguments if a is not type(None)), value, path)
    if origin is list and isinstance(value, (list, tuple)):
        return [typed_as(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {str(key): typed_as(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = getattr(kind, "__name__", str(kind)) if origin is None else str(kind)
    raise ConfigError(f"{path}={value!r} should be of type {name}")


def _anchor(config: Config) -> None:
    """Make paths whole, so that a saved config can be used from any folder."""
    data = config.data
    data.root, data.cache_dir, config.init_from = (
        str(Path(path).expanduser().absolute()) if path else path
        for path in (data.root, data.cache_dir, config.init_from)
    )


def _check(config: Config) -> None:
    data = config.data
    if len(data.image_size) != 2:
        raise ConfigError(f"data.image_size={data.image_size} should be [height,width]")
    size = data.fragment_size
    sides = [size] if isinstance(size, int) else size
    if not (isinstance(sides, list) and 1 <= len(sides) <= 2 and all(type(side) is int for side in sides)):
        raise ConfigError(f"data.fragment_size={size!r} should be a number of pixels or [height,width]")
    if isinstance(size, list) and len(size) == 1:
        data.fragment_size = size * 2
    if data.channels not in (1, 3):
        raise ConfigError(f"data.channels={data.channels} should be 1 (grey) or 3 (colour)")
    evaluation = config.evaluation
    for path, value, least in (
        ("seed", config.seed, 0),
        ("data.image_size", min(data.image_size), 1),
        ("data.image_height", data.image_height, 1),
        ("data.width_step", data.width_step, 1),
        ("data.images_per_puzzle", data.images_per_puzzle, 1),
        ("data.puzzles_per_batch", data.puzzles_per_batch, 1),
        ("data.batches_per_epoch", data.batches_per_epoch, 1),
        ("evaluation.puzzles", evaluation.puzzles, 0),
        ("evaluation.validation_puzzles", evaluation.validation_puzzles, 1),
        ("evaluation.train_puzzles", evaluation.train_puzzles, 0),
        ("evaluation.batch_size", evaluation.batch_size, 1),
        ("evaluation.seed", evaluation.seed, 0),
        ("evaluation.restarts", evaluation.restarts, 1),
        ("evaluation.memory_mb", evaluation.memory_mb, 1),
        ("selection.patience", config.selection.patience, 0),
        ("checkpoint.every_n_steps", config.checkpoint.every_n_steps, 1),
        ("embed.images", config.embed.images, 1),
        ("bench.batch_sizes", min(config.bench.batch_sizes, default=1), 1),
        ("bench.warmup", config.bench.warmup, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{path}={value} should be at least {least}")
    if data.free_width:
        _check_free_width(data, clustering=evaluation.clustering)
    if config.demo.port is not None and not 0 < config.demo.port < 2**16:
        raise ConfigError(f"demo.port={config.demo.port} should be from 1 to {2**16 - 1}")
    if reconstruction := evaluation.reconstruction:
        if not 0 < reconstruction.ratio < 1:
            raise ConfigError(f"evaluation.reconstruction.ratio={reconstruction.ratio} should lie between 0 and 1")
        _check_names("evaluation.reconstruction.perceptual", reconstruction.perceptual, PERCEPTUAL)
        if reconstruction.perceptual and 0 < evaluation.puzzles * data.images_per_puzzle < 2:
            raise ConfigError(
                "evaluation.reconstruction.perceptual needs at least 2 test images, as it compares distributions; "
                "set evaluation.puzzles higher"
            )
    if probe := evaluation.probe:
        _check_probe(probe)
    if generation := evaluation.generation:
        if generation.samples < 1:
            raise ConfigError(f"evaluation.generation.samples={generation.samples} should be at least 1")
        _check_names("evaluation.generation.perceptual", generation.perceptual, ("features", "fid"))
        if generation.perceptual and generation.samples < 2:
            raise ConfigError("evaluation.generation.perceptual compares distributions; set .samples to 2 at least")
    if harder := evaluation.robustness:
        for field in fields(harder):
            values = getattr(harder, field.name)
            most = 1.0 if field.name in ("rotation", "jitter") else math.inf
            for value in values if isinstance(values, list) else [values]:
                if not (0 < value <= most and math.isfinite(value)):
                    limit = f" and at most {most:g}" if most < math.inf else ""
                    raise ConfigError(f"evaluation.robustness.{field.name}={values} should be above 0{limit}")
        if not any(values for values in asdict(harder).values() if isinstance(values, list)):
            raise ConfigError("evaluation.robustness names no condition; evaluation.robustness=null switches it off")
        if harder.puzzles > evaluation.puzzles:
            raise ConfigError(
                f"evaluation.robustness.puzzles={harder.puzzles} should be at most "
                f"evaluation.puzzles={evaluation.puzzles}, of which they are the first"
            )
    for group in ("augment", "corruption"):
        for key, strength in (getattr(data, group) or {}).items():
            if strength < 0:
                raise ConfigError(f"data.{group}.{key}={strength} should not be negative; 0 switches it off")
            most = 1.0 if group == "corruption" and key in ("share", "rotation", "jitter") else math.inf
            if not (strength <= most and math.isfinite(strength)):
                limit = f"at most {most:g}" if most < math.inf else "a finite number"
                raise ConfigError(f"data.{group}.{key}={strength} should be {limit}")
    if data.images_range is not None:
        least, most = data.images_range if len(data.images_range) == 2 else (0, 0)
        images = data.images_per_puzzle * data.puzzles_per_batch
        if not 2 <= least <= most <= images:
            raise ConfigError(
                f"data.images_range={data.images_range} should be [least,most], from 2 up to the {images} images of a "
                "batch (data.images_per_puzzle * data.puzzles_per_batch)"
            )
    for name in ("lr", "weight_decay"):
        value = config.optimizer.get(name, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise ConfigError(f"optimizer.{name}={value!r} should be a number that is not negative")
    if config.trainer.get("max_epochs") == 0 and config.mode == "train":
        raise ConfigError("trainer.max_epochs=0 leaves nothing to train")
    if config.mode == "train" and (precision := str(config.trainer.get("precision"))) in UNTRAINABLE:
        raise ConfigError(
            f"trainer.precision={precision} would keep weights in another precision than float32, which training does "
            "not; choose auto, 32-true, bf16-mixed or 16-mixed"
        )
    if not config.bench.batch_sizes:
        raise ConfigError("bench.batch_sizes=[] leaves nothing to time")
    if not (config.bench.seconds > 0 and math.isfinite(config.bench.seconds)):
        raise ConfigError(f"bench.seconds={config.bench.seconds} should be above 0")
    if config.compute.compile is not None:
        _check_names("compute.compile", [config.compute.compile], COMPILERS)
    if config.selection.mode not in ("min", "max"):
        raise ConfigError(f"selection.mode='{config.selection.mode}' should be min or max")


def _check_free_width(data: DataConfig, *, clustering: bool) -> None:
    """Where widths are free, each image is whole and by itself."""
    size = data.fragment_size
    if ([size, size] if isinstance(size, int) else size) != data.image_size:
        raise ConfigError(
            f"data.image_height={data.image_height} leaves the width of images free, so they cannot be cut into "
            f"fragments of data.fragment_size={size}; set data.fragment_size=${{data.image_size}}, as "
            "experiment=whole_images does"
        )
    if data.images_per_puzzle != 1 or data.images_range is not None:
        raise ConfigError(
            f"data.image_height={data.image_height} leaves the width of images free, so each is by itself and no "
            "puzzle; set data.images_per_puzzle=1 and data.images_range=null, as experiment=whole_images does"
        )
    if clustering:
        raise ConfigError(
            f"data.image_height={data.image_height} leaves the width of images free, so there is no puzzle whose "
            "fragments are clustered; choose evaluation=reconstruction, probe or generation"
        )


def _check_probe(probe: ProbeConfig) -> None:
    path = "evaluation.probe"
    _check_names(f"{path}.classifiers", probe.classifiers, PROBES)
    _check_names(f"{path}.projections", probe.projections, PROJECTIONS)
    if not probe.classifiers:
        raise ConfigError(f"{path}.classifiers names none; choose from {', '.join(PROBES)}")
    for key in ("hidden", "epochs", "batch_size", "lr", "neighbours", "strengths", "images", "svm_images"):
        given = getattr(probe, key)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{path}.{key}={given} should be above 0")
    for key in ("noise", "weight_decay"):
        if not 0 <= getattr(probe, key) < math.inf:
            raise ConfigError(f"{path}.{key}={getattr(probe, key)} should not be negative")
    _check_names(f"{path}.scaling", [probe.scaling], ("each", "all"))
    for key, classifiers in (("neighbours", {"knn"}), ("strengths", {"logistic", "svm"})):
        if not getattr(probe, key) and (asking := classifiers.intersection(probe.classifiers)):
            raise ConfigError(f"{path}.{key} is empty, but {' and '.join(sorted(asking))} should choose from it")


def _check_names(path: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{path}: '{name}' is not known{nearest(name, known)}")
