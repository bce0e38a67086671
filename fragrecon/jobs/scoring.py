"""What a model is scored by, part by part: each finds scores, and knows how to draw what it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fragrecon.config.schema import Config, class_name
from fragrecon.data.module import FixedPuzzles, FragmentData
from fragrecon.evaluation.clustering.baselines import Baselines
from fragrecon.evaluation.clustering.protocol import evaluate
from fragrecon.evaluation.examples import arrays_of, first_examples
from fragrecon.evaluation.pixels.filling import first_filled
from fragrecon.evaluation.pixels.generation import Generation
from fragrecon.evaluation.pixels.inpainting import Fillings
from fragrecon.evaluation.pixels.networks import Networks
from fragrecon.evaluation.pixels.perceptual import Perceived, composites, decoded, perceive
from fragrecon.evaluation.pixels.reconstruction import Masking, reconstruction_of, shrunk
from fragrecon.evaluation.probes.scoring import Probing
from fragrecon.evaluation.setup import methods_of, protocol_of
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import FragmentModel, Inpainter
from fragrecon.report.figures import gallery, probes, projections
from fragrecon.report.terminal import progress
from fragrecon.runs.read import Run
from fragrecon.runs.write import FIGURES, PROBE_FILES, Record


@dataclass(frozen=True)
class Task:
    """A model to score.

    Attributes:
        config: of the job.
        model: in eval mode, on ``device``.
        run: that it is from.
        data: that it is scored on.
        device: to score on.
    """

    config: Config
    model: FragmentModel
    run: Run
    data: FragmentData
    device: torch.device

    @property
    def name(self) -> str:
        """What the model is called in tables and figures."""
        return class_name(self.config)

    @property
    def cache(self) -> Path:
        """Where the scores of baselines are kept."""
        return self.data.cache / "scores"

    @cached_property
    def puzzles(self) -> FixedPuzzles:
        return self.data.test_set(self.config.evaluation.puzzles)

    @property
    def how(self) -> dict[str, Any]:
        return {"batch_size": self.config.evaluation.batch_size, "device": self.device}

    @cached_property
    def generation(self) -> Generation:
        """Of a model that decodes."""
        return Generation(self.model, self.data, seed=self.config.evaluation.seed, **self.how)

    def draw_decoded(self, record: Record) -> None:
        """What a model decodes of embeddings, of what lies between these, and of noise."""
        shown = self.generation.show(protocol_of(self.config))
        gallery.draw_generated(shown, record.folder / FIGURES, clustered=self.config.evaluation.clustering)


def nothing(record: Record) -> None:
    """Draw nothing."""


@dataclass(frozen=True)
class Found:
    """What a part of the evaluation has found.

    Attributes:
        scores: by method and metric; of one metric as many for every method, in the same order.
        dataset_wide: by method and metric, what has a single value.
        protocol: what the scores mean, beyond what holds for all parts.
        draw: leaves pictures, and what pages draw from, in a run's folder.
    """

    scores: Mapping[str, Mapping[str, Scores]] = field(default_factory=dict)
    dataset_wide: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[Record], None] = nothing


def parts(task: Task, record: Record) -> Iterator[Found]:
    """All that the config asks for, one after the other; trained probes are left in the record."""
    evaluation = task.config.evaluation
    if evaluation.clustering:
        yield clustered(task)
    if evaluation.reconstruction:
        yield reconstructed(task)
    if evaluation.generation:
        yield generated(task)
    if evaluation.probe:
        yield probed(task, record)


def clustered(task: Task) -> Found:
    """By the clustering protocol."""
    protocol = protocol_of(task.config)
    with progress("scoring baselines", len(task.puzzles)) as advance:
        scores = Baselines(task.data, protocol, task.cache).score(task.puzzles, advance=advance, **task.how)
    with progress("scoring the model", len(task.puzzles)) as advance:
        methods = methods_of(task.model, protocol, task.data.grid)
        scores |= evaluate(task.puzzles, methods, advance=advance, **task.how)

    def draw(record: Record) -> None:
        examples = first_examples(task.model, task.puzzles, task.data.grid, protocol, task.device)
        record.write_examples(arrays_of(examples))
        gallery.draw_example(examples[0], task.name, record.folder / FIGURES)

    return Found(scores, draw=draw)


def reconstructed(task: Task) -> Found:
    """By what the model, and what is simpler, makes of masked images, or by what it decodes; and by what networks see
    in that where they are asked for.
    """
    reconstruction, model = task.config.evaluation.reconstruction, task.model
    assert reconstruction
    masking = Masking(reconstruction.ratio, task.config.evaluation.seed)
    score = reconstruction_of(model, masking)
    assert score is not None  # by `fragrecon.jobs.evaluate.check_parts`
    scores, prefix, outputs, draw = {}, "reconstruction", decoded(model), nothing
    if isinstance(model, Inpainter):
        inpainter = model
        fillings = Fillings(task.data, masking, model.patches, task.cache)
        prefix, outputs = "composite", composites(model, fillings)
        with progress("scoring baselines of filling in", len(task.puzzles)) as advance:
            scores = fillings.score(task.puzzles, advance=advance, **task.how)

        def draw(record: Record) -> None:
            filling = first_filled(inpainter, task.puzzles, masking, task.device)
            gallery.draw_filling(filling, record.folder / FIGURES)

    elif not (task.config.evaluation.clustering or task.config.evaluation.generation):
        draw = task.draw_decoded
    methods = {"model": score} if isinstance(model, Inpainter) else {"shrunk": shrunk(model.latent_dim), "model": score}
    with progress("scoring what the model fills in", len(task.puzzles)) as advance:
        scores |= evaluate(task.puzzles, methods, advance=advance, **task.how)
    perceived, protocol = Perceived(), {"mask_ratio": reconstruction.ratio}
    if reconstruction.perceptual:
        networks = Networks(reconstruction.perceptual, task.device)
        with progress("looking at what was filled in", len(task.puzzles)) as advance:
            perceived = perceive(task.puzzles, outputs, networks, prefix=prefix, advance=advance, **task.how)
        protocol["perceptual_images"] = perceived.images
    return Found(joined([scores, perceived.scores]), perceived.dataset_wide, protocol, draw)


def generated(task: Task) -> Found:
    """By samples of the prior."""
    asked, generation = task.config.evaluation.generation, task.generation
    assert asked
    networks, puzzles = Networks(asked.perceptual, task.device), generation.puzzles(asked.samples)
    with progress("looking at samples", len(puzzles)) as advance:
        perceived = generation.score(puzzles, networks, advance)
    images = perceived.images or asked.samples
    return Found(dataset_wide=perceived.dataset_wide, protocol={"generated_images": images}, draw=task.draw_decoded)


def probed(task: Task, record: Record) -> Found:
    """By classifiers of its embeddings of whole images; those that lie in the run already are not trained again."""
    asked, probing = task.config.evaluation.probe, probing_of(task.config, task.data, task.device)
    assert asked
    with progress("embedding images", len(probing.images)) as advance:
        embedded = probing.embed(task.model, task.run.best_checkpoint, task.config.model, advance=advance)
    with progress("training probes", probing.steps) as advance:
        found = probing.score(
            embedded, record.folder / PROBE_FILES, earlier=task.run.folder / PROBE_FILES, advance=advance
        )
    title = ", ".join(filter(None, (task.name, probing.averaged)))

    def draw(record: Record) -> None:
        probes.draw(found, title, record.folder / FIGURES)
        projections.draw(found, asked.projections, title, record.folder / FIGURES)

    return Found(found.scores, protocol=probing.protocol, draw=draw)


def probing_of(config: Config, data: FragmentData, device: torch.device) -> Probing:
    """Raises `DataError` or `ConfigError` where there is nothing to tell classes by."""
    assert config.evaluation.probe
    at_once = config.evaluation.batch_size * config.data.images_per_puzzle
    return Probing(config.evaluation.probe, data, at_once=at_once, device=device)


def joined(found: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Values by method and metric of several parts."""
    whole: dict[str, dict[str, Any]] = {}
    for part in found:
        for method, values in part.items():
            whole[method] = whole.get(method, {}) | dict(values)
    return whole
