"""The ``evaluation`` section of the configuration."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from fragrecon.config.types import Count, Node, NonNegative, Positive, Section, Share, Whole
from fragrecon.errors import ConfigError

Perceptual = Literal["features", "lpips", "fid"]
ProbeName = Literal["mlp", "linear", "knn", "logistic", "svm"]
Projection = Literal["pca", "tsne", "umap"]
FEW, FEW_IMAGES = 4, 500
"""Puzzles, and images of probes and samples, of a development run."""

PERCEPTUAL, PROBES, PROJECTIONS = get_args(Perceptual), get_args(ProbeName), get_args(Projection)


@dataclass(frozen=True)
class RobustnessConfig(Section):
    """Other conditions to score under: a list of values per axis."""

    puzzles: Count
    images: list[Count]
    fragment_size: list[Count]
    noise: list[Positive]
    rotation: list[Share]
    jitter: list[Share]
    gap: list[Count]
    missing: list[Annotated[float, Field(gt=0, lt=1)]]
    jpeg_quality: list[Annotated[int, Field(ge=1, le=100)]]

    @model_validator(mode="after")
    def _check(self) -> RobustnessConfig:
        if not any(values for values in asdict(self).values() if isinstance(values, list)):
            raise ConfigError("evaluation.robustness names no condition; use evaluation.robustness=null to disable it")
        return self


@dataclass(frozen=True)
class ReconstructionConfig(Section):
    """The share of hidden patches for masked models, and the perceptual metrics."""

    ratio: Annotated[float, Field(gt=0, lt=1)]
    perceptual: list[Perceptual] = field(default_factory=list)


@dataclass(frozen=True)
class ProbeConfig(Section):
    """Classifiers of frozen embeddings, by name or as nodes of the user's own, and their training settings.

    ``hidden`` are the widths of the MLP. The MLP and the linear probe are trained with AdamW at the rate ``lr`` for
    ``epochs``. Only the MLP is regularised, by ``noise`` on its inputs and by ``weight_decay``; ``scaling`` is how its
    inputs are scaled to standard deviation 1: each separately, or all by one factor. ``neighbours`` and ``strengths``
    (inverse regularisation) are selected on validation images. At most ``images`` training images are used; the
    support vector machine uses the first ``svm_images`` of them.
    """

    classifiers: Annotated[list[ProbeName | Node], Field(min_length=1)]
    hidden: list[Count]
    epochs: Count
    batch_size: Count
    lr: Positive
    neighbours: list[Count]
    strengths: list[Positive]
    images: Count | None
    svm_images: Count
    projections: list[Projection]
    noise: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    scaling: Literal["each", "all"] = "each"

    @model_validator(mode="after")
    def _check(self) -> ProbeConfig:
        for key, classifiers in (("neighbours", ("knn",)), ("strengths", ("logistic", "svm"))):
            if not getattr(self, key) and (asking := [name for name in self.classifiers if name in classifiers]):
                raise ConfigError(f"evaluation.probe.{key} is empty, but {asking[0]} selects from it")
        return self


@dataclass(frozen=True)
class GenerationConfig(Section):
    """The number of decoded samples of the prior, and the perceptual metrics that compare them with images."""

    samples: Count
    perceptual: list[Literal["features", "fid"]]

    @model_validator(mode="after")
    def _check(self) -> GenerationConfig:
        if self.perceptual and self.samples < 2:
            raise ConfigError(
                "evaluation.generation.samples=1 is too few for evaluation.generation.perceptual; use 2 or more"
            )
        return self


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """How models are scored: the parts of the evaluation and the number of puzzles.

    ``own`` holds metrics of the user by name; see `fragrecon.evaluation.own.EmbeddingMetric`.
    """

    puzzles: Whole
    validation_puzzles: Count
    train_puzzles: Whole
    batch_size: Count
    seed: Whole
    backend: Literal["batched", "sklearn"]
    restarts: Annotated[int, Field(ge=1, le=1000)]
    memory_mb: Count = 32
    robustness: RobustnessConfig | None = None
    clustering: bool = True
    estimate_count: bool = False
    reconstruction: ReconstructionConfig | None = None
    probe: ProbeConfig | None = None
    generation: GenerationConfig | None = None
    own: dict[Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")], Node] = field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> EvaluationConfig:
        if self.robustness and self.robustness.puzzles > self.puzzles:
            raise ConfigError(
                f"evaluation.robustness.puzzles={self.robustness.puzzles} should be at most "
                f"evaluation.puzzles={self.puzzles}, because they are the first of these; lower it or raise that"
            )
        return self

    def quick(self) -> EvaluationConfig:
        """Return the same evaluation with few puzzles, restarts, epochs and images, for ``trainer.fast_dev_run``."""
        robustness, probe, generation = self.robustness, self.probe, self.generation
        images = min(FEW_IMAGES, probe.images or FEW_IMAGES) if probe else None
        return replace(
            self,
            puzzles=min(FEW, self.puzzles),
            validation_puzzles=min(FEW, self.validation_puzzles),
            train_puzzles=min(FEW, self.train_puzzles),
            restarts=1,
            robustness=robustness and replace(robustness, puzzles=min(FEW, robustness.puzzles)),
            probe=probe and replace(probe, epochs=1, images=images, svm_images=min(FEW_IMAGES, probe.svm_images)),
            generation=generation and replace(generation, samples=min(FEW_IMAGES, generation.samples)),
        )
