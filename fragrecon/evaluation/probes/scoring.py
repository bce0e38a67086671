"""The probe part of the evaluation: classifiers of embeddings, and of raw pixels and exact principal components."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fragrecon import files
from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.data.module import FragmentData
from fragrecon.errors import DataError, RunError
from fragrecon.evaluation.cache import cache_path, cached_arrays
from fragrecon.evaluation.probes.base import Advance, FittedProbe, Predictions, Probe, Samples
from fragrecon.evaluation.probes.embeddings import Embedded, WholeImages
from fragrecon.evaluation.probes.knn import NearestNeighboursProbe
from fragrecon.evaluation.probes.logistic import LogisticProbe
from fragrecon.evaluation.probes.network import NetworkProbe, load_fitted, save_probe
from fragrecon.evaluation.probes.svm import SupportVectorProbe
from fragrecon.evaluation.setup import PartResult, Scoring
from fragrecon.evaluation.statistics import Scores
from fragrecon.progress import progress

if TYPE_CHECKING:
    from fragrecon.config.evaluation import ProbeConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeResults:
    """Probes of a model and their predictions on the test images.

    Attributes:
        scores: scores (images,) by method and metric, in the order of the store.
        fitted: probes of the model by name.
        predictions: predictions of these probes on the test images.
        test: the model's embeddings of the test images.
        classes: names of the classes, by label.
        averaged: how embeddings of fragments are combined, such as ``mean of 4 fragments``; empty for whole images.
    """

    scores: dict[str, dict[str, Scores]]
    fitted: dict[str, FittedProbe]
    predictions: dict[str, Predictions]
    test: Samples
    classes: Sequence[str]
    averaged: str = ""


def score_probes(scoring: Scoring) -> PartResult:
    """Train probes on the embeddings of a model and of the baselines, and score them on the test images.

    Args:
        scoring: model and data; probes are saved in the first of ``probe_folders``.

    Returns:
        Scores and trained probes; empty if the config disables probes.
    """
    config = scoring.config
    if not config.evaluation.probe:
        return PartResult()
    probing = probing_of(config, scoring.data, scoring.device)
    with progress("embedding images", len(probing.images)) as advance:
        embedded = probing.images.by_model(scoring.model, scoring.checkpoint, config.model, advance)
    with progress("training probes", probing.steps) as advance:
        results = probing.score(embedded, scoring.probe_folders, advance)
    return PartResult(results.scores, protocol=probing.protocol, probes=results)


def probing_of(config: Config, data: FragmentData, device: torch.device) -> Probing:
    """Build the `Probing` of a config; raises its errors."""
    assert config.evaluation.probe
    at_once = config.evaluation.batch_size * config.data.images_per_puzzle
    return Probing(config.evaluation.probe, data, at_once=at_once, device=device)


def probes_of(config: ProbeConfig, seed: int, device: torch.device) -> dict[str, Probe]:
    """Return the probes of a config by name.

    Args:
        config: names of the probes and their settings.
        seed: seed of the networks.
        device: device to train networks on.

    Returns:
        The probes in the order of ``config.classifiers``.
    """
    learning = (config.epochs, config.batch_size, config.lr, seed, device)
    strengths = tuple(config.strengths)
    probes = (
        NetworkProbe("mlp", tuple(config.hidden), *learning, config.noise, config.weight_decay, config.scaling),
        NetworkProbe("linear", (), *learning),
        NearestNeighboursProbe("knn", tuple(config.neighbours)),
        LogisticProbe("logistic", strengths),
        SupportVectorProbe("svm", strengths, config.svm_images),
    )
    by_name = {probe.name: probe for probe in probes}
    chosen = [by_name[one] if isinstance(one, str) else _own(one, seed, device) for one in config.classifiers]
    return {probe.name: probe for probe in chosen}


def _own(node: Mapping[str, Any], seed: int, device: torch.device) -> Probe:
    """Build a probe of the user, which is named after its class unless the node names it."""
    words = re.findall("[A-Z]+[a-z0-9]*", str(node.get("_target_")).rpartition(".")[2].removesuffix("Probe"))
    name = "_".join(words).lower() or "own"
    probe: Probe = build(node, "evaluation.probe.classifiers", Probe, name=name, seed=seed, device=device)
    return probe


class Probing:
    """Probes on the images of a data set.

    Attributes:
        images: images to embed.
        probes: probes by name.

    Args:
        config: names of the probes and their settings.
        data: data module of the images.
        at_once: images per embedding batch.
        device: device to embed and train networks on.

    Raises:
        DataError: the images have no labels, or fewer than two classes.
        ConfigError: a probe needs more training images.
    """

    def __init__(self, config: ProbeConfig, data: FragmentData, *, at_once: int, device: torch.device) -> None:
        self.data = data
        self.images = WholeImages(data, config.images, at_once=at_once, device=device)
        self.probes = probes_of(config, data.puzzle_seed, device)
        manifests = [data.store(split).manifest for split in ("train", "test")]
        self.num_classes = max(manifest.num_classes for manifest in manifests)
        self.names = next((manifest.classes for manifest in manifests if manifest.classes), None)
        self._check()

    def _check(self) -> None:
        name, labels, remedy = self.data.config.name, self.images.labels, "set evaluation.probe=null"
        for part, own in labels.items():
            if not len(own) or int(own.min()) < 0:
                lack = "their classes are not known" if len(own) else "there are none"
                raise DataError(f"probes need {part} images with classes, but of data={name} {lack}; {remedy}")
        training = labels["training"]
        if len(torch.unique(training)) < 2:
            raise DataError(
                f"probes need two classes at least, but data={name} shows one in {len(training)} training images; "
                f"{remedy}, or evaluation.probe.images higher"
            )
        for probe in self.probes.values():
            probe.check(training, self.num_classes)

    @property
    def steps(self) -> int:
        """Number of steps of `score`, for a progress bar."""
        return 3 * sum(probe.steps for probe in self.probes.values())

    @property
    def averaged(self) -> str:
        """How embeddings of fragments are combined, such as ``mean of 4 fragments``; empty for whole images."""
        return f"mean of {self.data.cells} fragments" if self.data.cells > 1 else ""

    @property
    def protocol(self) -> dict[str, Any]:
        """Settings that the scores depend on, for the record."""
        counts = {f"probe_{part}_images": len(ids) for part, ids in self.images.ids.items()}
        return counts | {"probe_embedding": self.averaged or "whole image"}

    def score(self, embedded: Embedded, folders: Sequence[Path], advance: Advance = lambda count: None) -> ProbeResults:
        """Train the probes on the embeddings of the model, and of the baselines unless their scores are cached.

        Args:
            embedded: the model's embeddings of the images.
            folders: folders of the model's probes. Probes and their tables are written to the first; networks saved in
                any of the folders are not trained again.
            advance: called with the number of steps done, for a progress bar.

        Returns:
            The trained probes with their scores.
        """
        fitted = {name: self._fitted(probe, embedded, folders, advance) for name, probe in self.probes.items()}
        predictions = {name: found.classifier.predict(embedded.test.embeddings) for name, found in fitted.items()}
        latents = embedded.test.embeddings.shape[1]
        scores = {
            "model": {metric: own for name in fitted for metric, own in self._scores(name, predictions[name]).items()},
            "raw_pixels": self._baseline("raw_pixels", 0, self.images.by_pixels, advance),
            "exact_pca": self._baseline("exact_pca", latents, lambda: self.images.by_components(latents), advance),
        }
        classes = self.names or [str(label) for label in range(self.num_classes)]
        results = ProbeResults(scores, fitted, predictions, embedded.test, classes, self.averaged)
        for probe in self.probes.values():
            write_tables(results, probe, folders[0])
        return results

    def _fitted(self, probe: Probe, embedded: Embedded, folders: Sequence[Path], advance: Advance) -> FittedProbe:
        """Return a trained probe of the model, loaded from the folders if it is there."""
        if not probe.saved:
            return self._fit(probe, embedded, advance)
        file, key = f"{probe.name}.pt", files.digest([embedded.key, probe.settings])
        found = next(filter(None, (_saved(folder / file, key) for folder in folders)), None)
        if found:
            advance(probe.steps)
        else:
            found = self._fit(probe, embedded, advance)
        save_probe(folders[0] / file, found, key, self.names)
        return found

    def _baseline(
        self, method: str, components: int, embed: Callable[[], Embedded], advance: Advance
    ) -> dict[str, Scores]:
        """Return scores (images,) of a baseline by metric; images are embedded only if scores are not cached."""
        known: list[Embedded] = []

        def compute(probe: Probe) -> dict[str, Scores]:
            embedded = known[0] if known else embed()
            known[:] = [embedded]
            fitted = self._fit(probe, embedded, advance)
            return self._scores(probe.name, fitted.classifier.predict(embedded.test.embeddings))

        scores: dict[str, Scores] = {}
        for name, probe in self.probes.items():
            facts = [self.images.facts, components, probe.settings]
            path = cache_path(self.data.cache / "scores", f"{method}-probe_{name}", facts)
            scores |= cached_arrays(path, partial(compute, probe), partial(advance, probe.steps))
        return scores

    def _fit(self, probe: Probe, embedded: Embedded, advance: Advance) -> FittedProbe:
        return probe.fit(embedded.training, embedded.validation, self.num_classes, advance)

    def _scores(self, name: str, predictions: Predictions) -> dict[str, Scores]:
        """Return scores (images,) by metric."""
        found = predictions.scores(self.images.labels["test"])
        return {f"probe_{name}_{metric}": values.numpy() for metric, values in found.items()}


def _saved(path: Path, key: str) -> FittedProbe | None:
    """Load a saved probe with this key; None if the key differs, or the file is missing or damaged."""
    try:
        found, own = load_fitted(path) if path.is_file() else (None, "")
    except RunError as error:
        log.warning("%s; it is trained again", error)
        return None
    return found if own == key else None


def write_tables(results: ProbeResults, probe: Probe, folder: Path) -> None:
    """Write the trials of a probe, for example to ``mlp_epochs.csv``, and its table ``..._classes.csv``."""
    fitted = results.fitted[probe.name]
    rows = [{**trial, "chosen": number == fitted.chosen} for number, trial in enumerate(fitted.trials)]
    files.write_csv(folder / f"{probe.name}_{probe.tried}.csv", rows)
    files.write_csv(folder / f"{probe.name}_classes.csv", class_table(results, probe.name))


def class_table(results: ProbeResults, name: str) -> list[dict[str, Any]]:
    """Return one row per class: number of test images, and a probe's precision, recall and F1, 0 where undefined."""
    from sklearn.metrics import precision_recall_fscore_support  # slow to import

    found = precision_recall_fscore_support(
        results.test.labels.numpy(),
        results.predictions[name].classes.numpy(),
        labels=range(len(results.classes)),
        zero_division=0.0,
    )
    return [
        {
            "class": called,
            "images": int(images),
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
        }
        for called, precision, recall, f1, images in zip(results.classes, *found, strict=True)
    ]
