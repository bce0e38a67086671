"""The sections of the configuration: typed, bounded and frozen."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator, with_config
from typing_extensions import TypedDict

from fragrecon.config.evaluation import EvaluationConfig
from fragrecon.config.types import (
    INERT,
    STRICT,
    Count,
    Fraction,
    Node,
    NonNegative,
    PlainName,
    Positive,
    RunPath,
    SavedPath,
    Section,
    Share,
    Unlimited,
    Whole,
)
from fragrecon.errors import ConfigError

WEIGHT_PRECISIONS = ("16-true", "bf16-true", "64", "64-true", "transformer-engine", "transformer-engine-float16")
"""Lightning precisions that change the dtype of the weights, which must stay float32 in training."""


@with_config(STRICT)
class AugmentConfig(TypedDict, total=False):
    """Strength of the augmentation of training images; see `fragrecon.data.augment.Augmentation`."""

    horizontal_flip: Fraction
    rotation: Annotated[float, Field(ge=0, le=180)]
    brightness: Fraction
    contrast: Fraction
    saturation: Fraction
    hue: Annotated[float, Field(ge=0, le=0.5)]
    crop: Annotated[float, Field(ge=0, lt=1)]
    compression: Fraction


@with_config(STRICT)
class CorruptionConfig(TypedDict, total=False):
    """Strength of the corruptions of training fragments; see `fragrecon.data.corruption.Corruption`."""

    share: Fraction
    gap: NonNegative
    noise: NonNegative
    jitter: Fraction
    rotation: Fraction
    compression: Fraction
    missing: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class DataConfig(Section):
    """The images, and how they are cut into puzzles. Sizes are (height, width) in pixels.

    With ``image_height``, images keep their aspect ratio: their widths vary, in multiples of ``width_step``.
    ``image_size`` is then the aspect ratio of a nominal image, which ``image_shape`` and ``fragment_shape``
    describe.

    Attributes:
        name: name of the data set in tables and in the cache folder.
        reader: class that reads the files, and its arguments.
        root: folder or file of the data set.
        image_size: (height, width) that images are cropped and scaled to; a single number stands for both.
        channels: 3 for colour, 1 for grey images.
        download: whether missing files are downloaded into ``root``, where the reader can.
    """

    name: PlainName
    reader: Node
    root: SavedPath | None
    image_size: Annotated[list[Count], Field(min_length=2, max_length=2)]
    channels: Literal[1, 3]
    fragment_size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
    images_per_puzzle: Count
    puzzles_per_batch: Count
    batches_per_epoch: Count | None
    epochs: Count
    cache_dir: SavedPath | None = field(metadata=INERT)
    augment: AugmentConfig
    download: bool = False
    corruption: CorruptionConfig | None = None
    images_range: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    image_height: Count | None = None
    width_step: Count = 16
    on_bad_image: Literal["fail", "skip"] = "fail"
    max_pixels: Count = 178_956_970  # the limit of Pillow; a larger file may be a decompression bomb

    @field_validator("fragment_size", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return size * 2 if isinstance(size, list) and len(size) == 1 else size

    @field_validator("image_size", mode="before")
    @classmethod
    def _square_image(cls, size: Any) -> Any:
        return [size, size] if isinstance(size, int) else size

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.images_range is not None:
            least, most = self.images_range
            images = self.images_per_puzzle * self.puzzles_per_batch
            if not 2 <= least <= most <= images:
                raise ConfigError(
                    f"data.images_range={self.images_range} should be [least,most], from 2 up to the {images} images "
                    "of a batch (data.images_per_puzzle * data.puzzles_per_batch)"
                )
        if self.variable_width:
            if not self._is_whole_image:
                raise ConfigError(
                    f"data.image_height={self.image_height} gives images of variable width, which cannot be cut into "
                    f"fragments of data.fragment_size={self.fragment_size}; set "
                    "data.fragment_size=${data.image_size}, as experiment=whole_images does"
                )
            if self.images_per_puzzle != 1 or self.images_range is not None:
                raise ConfigError(
                    f"data.image_height={self.image_height} gives images of variable width, which form no puzzle; set "
                    "data.images_per_puzzle=1 and data.images_range=null, as experiment=whole_images does"
                )
        return self

    @property
    def _is_whole_image(self) -> bool:
        size = self.fragment_size
        return ([size, size] if isinstance(size, int) else size) == self.image_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width = self.image_size
        if self.image_height is not None:
            height, width = self.image_height, max(1, round(width * self.image_height / height))
        return self.channels, height, width

    @property
    def fragment_shape(self) -> tuple[int, int, int]:
        if self.variable_width:
            return self.image_shape
        size = self.fragment_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.channels, height, width

    @property
    def variable_width(self) -> bool:
        return self.image_height is not None


@dataclass(frozen=True)
class TrainerConfig(Section):
    """Arguments of ``lightning.Trainer``; ``max_epochs`` is by default ``data.epochs``.

    ``accumulate_grad_batches`` may also be a mapping from an epoch to the batches per optimizer step from then on.
    ``ema`` is the decay of the exponential moving average of the weights; see
    `fragrecon.training.averaging.WeightAverage`. ``callbacks`` are nodes by name, or null. ``last.ckpt`` is written
    every ``checkpoint_every_n_steps`` optimizer steps within an epoch, and after every epoch.
    """

    accelerator: str
    strategy: str
    devices: Count | Unlimited | str | list[Whole]
    num_nodes: Count
    precision: str | int
    fast_dev_run: bool | Whole
    max_epochs: Count | None
    min_epochs: Count | None
    max_steps: Count | Unlimited
    min_steps: Count | None
    max_time: str | None
    limit_train_batches: Count | Share
    limit_val_batches: Whole | Fraction
    val_check_interval: Count | Share | str | None
    check_val_every_n_epoch: Count | None
    num_sanity_val_steps: Whole | Unlimited
    enable_progress_bar: bool | None = field(metadata=INERT)
    accumulate_grad_batches: Count | Annotated[dict[Whole, Count], Field(min_length=1)]
    gradient_clip_val: NonNegative | None
    gradient_clip_algorithm: Literal["norm", "value"] | None
    deterministic: bool | Literal["warn"] | None
    benchmark: bool | None
    inference_mode: bool
    profiler: Literal["simple", "advanced", "pytorch"] | None = field(metadata=INERT)
    detect_anomaly: bool
    sync_batchnorm: bool
    log_every_n_steps: Count = field(metadata=INERT)
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    callbacks: dict[str, Node | None] = field(default_factory=dict)
    checkpoint_every_n_steps: Count = field(default=200, metadata=INERT)

    @field_validator("max_time")
    @classmethod
    def _is_duration(cls, time: str | None) -> str | None:
        if time is not None and not re.fullmatch(r"(?=.*[1-9])\d+:\d\d:\d\d:\d\d", time):
            raise ConfigError(f"trainer.max_time={time!r} should be DD:HH:MM:SS, longer than 0, such as 00:00:30:00")
        return time


@dataclass(frozen=True)
class SelectionConfig(Section):
    """The logged metric that selects the best checkpoint and stops training early."""

    monitor: str
    mode: Literal["min", "max"]
    patience: Whole
    min_delta: NonNegative


@dataclass(frozen=True)
class ComputeConfig(Section):
    """Compute settings of training: ``torch.compile``, the channels-last memory format, and gradient
    checkpointing.
    """

    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None
    channels_last: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class EmbedConfig(Section):
    """Output of ``mode=embed``: the split, the number of images (by default all) and the format."""

    split: Literal["train", "validation", "test"]
    images: Count | None
    format: Literal["npz", "parquet"]


@dataclass(frozen=True)
class DemoConfig(Section):
    """The port of ``mode=demo``, by default the first free one from 7860, and whether a browser opens."""

    port: Annotated[int, Field(ge=1, lt=2**16)] | None
    open: bool


@dataclass(frozen=True)
class BenchConfig(Section):
    """Settings of ``mode=bench``. Per batch size, ``warmup`` steps are not timed; then steps are timed until the time
    is known within 10% or ``seconds`` have passed.
    """

    batch_sizes: Annotated[list[Count], Field(min_length=1)]
    seconds: Positive
    warmup: Whole


@dataclass(frozen=True)
class ExportConfig(Section):
    """Whether ``mode=export`` writes ``model.onnx``, and the file with the user's sections of the model card."""

    onnx: bool | Literal["auto"]
    notes: SavedPath | None


@dataclass(frozen=True)
class PiecesConfig(Section):
    """How ``mode=reassemble`` cuts whole photographs into pieces, without a run, and what it knows of them.

    The pieces have ``size`` (height and width in pixels), or every photograph has ``grid`` (rows and columns).
    ``images`` is the number of images, or the rows and columns of each; ``known`` tells the sizes of the photographs.
    """

    size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    grid: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    rotation: Literal["known", "unknown"]
    images: (
        Literal["known", "unknown"]
        | Count
        | Annotated[list[Annotated[list[Count], Field(min_length=2, max_length=2)]], Field(min_length=1)]
    )

    @model_validator(mode="after")
    def _check(self) -> PiecesConfig:
        if self.size is not None and self.grid is not None:
            raise ConfigError(f"set pieces.size={self.size} or pieces.grid={self.grid}, not both")
        return self


@dataclass(frozen=True)
class SweepConfig(Section):
    """The name of a sweep and of its folder under ``multirun/``, and whether no job starts after one has failed.

    ``dir`` is the folder that ``mode=report`` reads.
    """

    name: str
    stop_on_failure: bool = False
    dir: str | None = None


@dataclass(frozen=True)
class ReportConfig(Section):
    """Whether figures are saved; None saves all, but in a job of a sweep only those that the sweep's page shows."""

    figures: bool | None = None


@dataclass(frozen=True)
class Config(Section):
    """The configuration of a job, in plain values. The fields at the end, None by default, belong to one mode each."""

    mode: Annotated[str, Field(pattern="^[a-z_]+$")]
    seed: Whole
    resume: str | None = field(metadata=INERT)
    init_from: RunPath | None
    data: DataConfig
    model: Node
    objective: Node
    optimizer: Node
    scheduler: Node
    trainer: TrainerConfig
    logger: dict[str, Node] = field(metadata=INERT)
    evaluation: EvaluationConfig
    selection: SelectionConfig
    compute: ComputeConfig
    sweep: SweepConfig = field(metadata=INERT)
    report: ReportConfig = field(default_factory=ReportConfig, metadata=INERT)
    plugins: list[str] = field(default_factory=list, metadata=INERT)
    run: str | None = None
    checkpoint: str | None = None
    input: str | list[str] | None = None
    loose: bool | None = None
    rotate: bool | None = None
    missing: Annotated[float, Field(ge=0, lt=1)] | None = None
    pieces: PiecesConfig | None = None
    embed: EmbedConfig | None = None
    demo: DemoConfig | None = None
    bench: BenchConfig | None = None
    output: SavedPath | None = None
    export: ExportConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> Config:
        evaluation, reconstruction = self.evaluation, self.evaluation.reconstruction
        images = evaluation.puzzles * self.data.images_per_puzzle
        if reconstruction and reconstruction.perceptual and 0 < images < 2:
            raise ConfigError(
                f"evaluation.puzzles={evaluation.puzzles} gives {images} test image, but "
                "evaluation.reconstruction.perceptual compares distributions; use 2 images or more"
            )
        if self.data.variable_width and evaluation.clustering:
            raise ConfigError(
                f"data.image_height={self.data.image_height} gives images of variable width, which form no puzzle to "
                "cluster; use evaluation=reconstruction, probe or generation"
            )
        for name in ("lr", "weight_decay"):
            value = self.optimizer.get(name, 0.0)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ConfigError(f"optimizer.{name}={value!r} should be a number, 0 or greater")
        if getattr(self, self.mode, self) is None:
            raise ConfigError(f"{self.mode}=null should be a group of keys; leave it out for the defaults")
        if self.mode == "train" and str(self.trainer.precision) in WEIGHT_PRECISIONS:
            raise ConfigError(
                f"trainer.precision={self.trainer.precision} keeps weights in another type than float32; use auto, "
                "32-true, bf16-mixed or 16-mixed"
            )
        return self

    @property
    def max_epochs(self) -> int:
        return self.trainer.max_epochs or self.data.epochs

    def to_dict(self) -> dict[str, Any]:
        """Return plain values by key, without the keys of other modes."""
        return {key: value for key, value in asdict(self).items() if key not in MODE_KEYS or value is not None}


MODE_KEYS = tuple(found.name for found in fields(Config) if found.default is None)
"""Keys that only some modes have."""


def model_name(node: Node) -> str:
    """Return the name of a model on the command line, such as ``conv`` for ``fragrecon.models.conv.ConvAutoencoder``;
    of the user's own class, the name of the class.
    """
    *_, module, name = str(node["_target_"]).split(".")
    return module if str(node["_target_"]).startswith("fragrecon.") else name


def class_name(config: Config) -> str:
    """Return the name of a model in tables and figures: its class, that of a wrapped network, or the name in timm."""
    if config.model["_target_"] == "fragrecon.models.timm.TimmEncoder":
        return str(config.model["name"])
    network = config.model.get("network")
    node = network if isinstance(network, dict) and "_target_" in network else config.model
    return str(node["_target_"].rpartition(".")[2])
