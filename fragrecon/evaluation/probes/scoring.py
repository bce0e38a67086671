"""What classifiers tell of images by a model's embeddings of them, beside raw pixels and exact principal components."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sklearn.metrics import precision_recall_fscore_support

from fragrecon import files
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError, DataError, RunError
from fragrecon.evaluation.clustering.baselines import code
from fragrecon.evaluation.probes import classifiers as probes
from fragrecon.evaluation.probes.classifiers import Answers, Fitted, Samples
from fragrecon.evaluation.probes.embeddings import Embedded, WholeImages, kept
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import FragmentModel

if TYPE_CHECKING:
    from fragrecon.config.schema import ProbeConfig

log = logging.getLogger(__name__)

FITS: dict[str, Callable[..., Fitted]] = {
    "mlp": probes.fit_network,
    "linear": probes.fit_network,
    "knn": probes.fit_neighbours,
    "logistic": probes.fit_logistic,
    "svm": probes.fit_machine,
}
LEARNED = ("mlp", "linear")
"""Epoch by epoch."""

SAVED = (*LEARNED, "logistic")
"""As what they come to is a network."""


@dataclass(frozen=True)
class Probed:
    """What classifiers make of the test images.

    Attributes:
        scores: (images,) by method and metric, all in the order of the store.
        fitted: the model's classifiers by name.
        answers: of these, on the test images.
        test: the test images as the model embeds them.
        classes: what they are called, by label.
    """

    scores: dict[str, dict[str, Scores]]
    fitted: dict[str, Fitted]
    answers: dict[str, Answers]
    test: Samples
    classes: Sequence[str]


class Probing:
    """The classifiers that are asked for, on the images of a data set.

    Attributes:
        images: that are embedded.

    Args:
        config: which classifiers, and how they are fitted.
        data: whose images.
        at_once: images that are embedded at once.
        device: where images are embedded and networks trained.

    Raises:
        DataError: the images are not of two classes at least, or nobody knows of which.
        ConfigError: a classifier that is asked for needs more training images.
    """

    def __init__(self, config: ProbeConfig, data: FragmentData, *, at_once: int, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.images = WholeImages(data, config.images, at_once=at_once, device=device)
        manifests = [data.store(split).manifest for split in ("train", "test")]
        self.num_classes = max(manifest.num_classes for manifest in manifests)
        self.names = next((manifest.classes for manifest in manifests if manifest.classes), None)
        self._check()

    def _check(self) -> None:
        name, labels, way_out = self.data.config.name, self.images.labels, "set evaluation.probe=null"
        for part, own in labels.items():
            if not len(own) or int(own.min()) < 0:
                lack = "their classes are not known" if len(own) else "there are none"
                raise DataError(
                    f"classifiers of embeddings need {part} images with classes, but of data={name} {lack}; "
                    f"{way_out}, or use other data"
                )
        training = labels["training"]
        shown, count = len(torch.unique(training)), len(training)
        if shown < 2:
            raise DataError(
                f"classifiers of embeddings need two classes at least, but data={name} shows one in {count} training "
                f"images; {way_out}, or evaluation.probe.images higher"
            )
        if "logistic" in self.config.classifiers and shown < self.num_classes:
            raise ConfigError(
                "evaluation.probe.classifiers: logistic holds a class that it never saw for impossible, and the "
                f"{count} training images show {shown} of {self.num_classes}; leave it out, or set "
                "evaluation.probe.images higher"
            )
        if "svm" in self.config.classifiers and len(torch.unique(training[: self.config.svm_images])) < 2:
            raise ConfigError(
                f"evaluation.probe.svm_images={self.config.svm_images} are all of one class; set it higher"
            )

    @property
    def steps(self) -> int:
        """How many `score` does."""
        return 3 * sum(map(self._steps, self.config.classifiers))

    @property
    def averaged(self) -> str:
        """What stands for an image that is cut: ``mean of 4 fragments``; nothing is said of one that is whole."""
        return f"mean of {self.data.cells} fragments" if self.data.cells > 1 else ""

    @property
    def protocol(self) -> dict[str, Any]:
        """What the scores mean."""
        counts = {f"probe_{part}_images": len(ids) for part, ids in self.images.ids.items()}
        return counts | {"probe_embedding": self.averaged or "whole image"}

    def embed(
        self,
        model: FragmentModel,
        checkpoint: Path,
        settings: Mapping[str, Any],
        advance: Callable[[int], None] = lambda count: None,
    ) -> Embedded:
        """The images by a model, see `WholeImages.by_model`."""
        return self.images.by_model(model, checkpoint, settings, advance)

    def score(
        self,
        embedded: Embedded,
        folder: Path,
        earlier: Path | None = None,
        advance: Callable[[int], None] = lambda count: None,
    ) -> Probed:
        """Fit the classifiers to the model's embeddings, and to the baselines' where their scores were not kept.

        Args:
            embedded: the images by the model.
            folder: for each classifier of the model, what was tried out, a table of the classes, and itself if it is a
                network. If that lies there already, it is not trained again.
            earlier: another folder of which the same holds.
            advance: told how many steps are done.
        """
        fitted = {name: self._fitted(name, embedded, folder, earlier, advance) for name in self.config.classifiers}
        answers = {name: found.probe.answer(embedded.test.embeddings) for name, found in fitted.items()}
        latents = embedded.test.embeddings.shape[1]
        scores = {
            "model": {metric: own for name in answers for metric, own in self._scores(name, answers[name]).items()},
            "raw_pixels": self._baseline("raw_pixels", 0, self.images.by_pixels, advance),
            "exact_pca": self._baseline("exact_pca", latents, lambda: self.images.by_components(latents), advance),
        }
        classes = self.names or [str(label) for label in range(self.num_classes)]
        probed = Probed(scores, fitted, answers, embedded.test, classes)
        write_tables(probed, folder)
        return probed

    def _fitted(
        self, name: str, embedded: Embedded, folder: Path, earlier: Path | None, advance: Callable[[int], None]
    ) -> Fitted:
        """A classifier of the model, from the folders if it is there."""
        if name not in SAVED:
            return self._fit(name, embedded, advance)
        key = files.digest([embedded.key, *self._follows(name)])
        found = next(filter(None, (_saved(place / f"{name}.pt", key) for place in (folder, earlier) if place)), None)
        if found:
            advance(self._steps(name))
        else:
            found = self._fit(name, embedded, advance)
        probes.save_probe(folder / f"{name}.pt", found, key, self.names)
        return found

    def _baseline(
        self, method: str, components: int, embed: Callable[[], Embedded], advance: Callable[[int], None]
    ) -> dict[str, Scores]:
        """Scores (images,) by metric; the images are embedded only if those of some classifier were not kept."""
        known: list[Embedded] = []

        def compute(name: str) -> dict[str, Scores]:
            embedded = known[0] if known else embed()
            known[:] = [embedded]
            return self._scores(name, self._fit(name, embedded, advance).probe.answer(embedded.test.embeddings))

        scores: dict[str, Scores] = {}
        for name in self.config.classifiers:
            key = files.digest([self.images.facts, components, *self._follows(name), code()])
            path = self.data.cache / "scores" / f"{method}-probe_{name}-{key[:24]}.npz"
            scores |= kept(path, partial(compute, name), partial(advance, self._steps(name)))
        return scores

    def _fit(self, name: str, embedded: Embedded, advance: Callable[[int], None]) -> Fitted:
        """A classifier, of which test images know nothing."""
        settings = self._settings(name) | {"advance": advance}
        if name in LEARNED:
            settings |= {"seed": self.data.puzzle_seed, "device": self.device}
        return FITS[name](embedded.training, embedded.validation, self.num_classes, **settings)

    def _settings(self, name: str) -> dict[str, Any]:
        """What the fit of a classifier is told."""
        config = self.config
        learning = {"epochs": config.epochs, "batch_size": config.batch_size, "lr": config.lr}
        regularised = {"noise": config.noise, "weight_decay": config.weight_decay, "scaling": config.scaling}
        settings: dict[str, dict[str, Any]] = {
            "mlp": {"hidden": list(config.hidden), **learning, **regularised},
            "linear": {"hidden": [], **learning},
            "knn": {"neighbours": list(config.neighbours)},
            "logistic": {"strengths": list(config.strengths)},
            "svm": {"strengths": list(config.strengths), "images": config.svm_images},
        }
        return settings[name]

    def _follows(self, name: str) -> list[Any]:
        """What a fit follows from besides the embeddings, whose key stands for the seed too."""
        return [name, self._settings(name)]

    def _steps(self, name: str) -> int:
        """How many a fit takes."""
        return self.config.epochs if name in LEARNED else 1 if name == "knn" else len(self.config.strengths)

    def _scores(self, name: str, answers: Answers) -> dict[str, Scores]:
        """(images,) by metric."""
        found = answers.scores(self.images.labels["test"])
        return {f"probe_{name}_{metric}": values.numpy() for metric, values in found.items()}


def _saved(path: Path, key: str) -> Fitted | None:
    """A classifier that was kept, if it is of that key; none if the file is damaged."""
    try:
        found, own = probes.load_fitted(path) if path.is_file() else (None, "")
    except RunError as error:
        log.warning("%s; it is fitted anew", error)
        return None
    return found if own == key else None


def write_tables(probed: Probed, folder: Path) -> None:
    """Write what was tried out for each classifier, such as ``mlp_epochs.csv``, and its ``..._classes.csv``."""
    for name, fitted in probed.fitted.items():
        tried = "epochs" if name in LEARNED else "neighbours" if name == "knn" else "strengths"
        rows = [{**trial, "chosen": number == fitted.chosen} for number, trial in enumerate(fitted.trials)]
        files.write_csv(folder / f"{name}_{tried}.csv", rows)
        files.write_csv(folder / f"{name}_classes.csv", class_table(probed, name))


def class_table(probed: Probed, name: str) -> list[dict[str, Any]]:
    """A row for each class: its test images, and precision, recall and F1 of a classifier, 0 where undefined."""
    found = precision_recall_fscore_support(
        probed.test.labels.numpy(),
        probed.answers[name].classes.numpy(),
        labels=range(len(probed.classes)),
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
        for called, precision, recall, f1, images in zip(probed.classes, *found, strict=True)
    ]
