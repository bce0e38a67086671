"""Classifiers of frozen embeddings: fitted to training images, and chosen by how they do on validation images.

All but the nearest neighbours see embeddings of mean 0 and deviation 1 in each number, by the training images: one
learning rate, one regularisation and one width of a kernel then suit all numbers alike. An MLP may be given them scaled
by one factor instead, so that what a model makes small stays small. The neighbours are asked what the distances between
embeddings tell, as they leave the model.

Shapes: M images, D numbers an embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from fragrecon import files
from fragrecon.errors import RunError, TrainingError
from fragrecon.models.blocks import perceptron
from fragrecon.seeds import seed_of, torch_generator

FORMAT = 1
"""Of saved probes."""

MOST_STEPS = 1000
"""Of logistic regression."""

Trial = dict[str, float]
"""A setting that was tried out, such as ``neighbours`` or ``epoch``, and how it went: ``validation_accuracy`` and, of
classifiers that give probabilities, ``validation_cross_entropy`` in nats; of those that learn also ``train_...``.
"""


@dataclass(frozen=True)
class Samples:
    """Embeddings (M, D) float32 of images, and the classes (M,) of these."""

    embeddings: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Samples:
        return Samples(self.embeddings[:count], self.labels[:count])


@dataclass(frozen=True)
class Answers:
    """What a classifier takes images for: classes (M,), and log-probabilities (M, K) if it gives any."""

    classes: Tensor
    log_probabilities: Tensor | None = None

    def scores(self, labels: Tensor) -> dict[str, Tensor]:
        """``accuracy`` (M,), 0 or 1, and ``cross_entropy`` (M,) in nats, image by image."""
        found = {"accuracy": (self.classes == labels).double()}
        if self.log_probabilities is not None:
            found["cross_entropy"] = -self.log_probabilities.double().gather(1, labels.unsqueeze(1)).squeeze(1)
        return found


class Probe(Protocol):
    """A fitted classifier."""

    def answer(self, embeddings: Tensor) -> Answers:
        """For embeddings (M, D)."""


@dataclass(frozen=True)
class Fitted:
    """A classifier with the settings that did best on validation images, and all that were tried.

    Attributes:
        probe: with weights of its own for these settings.
        trials: in the order of trial.
        chosen: place of the settings among them.
    """

    probe: Probe
    trials: list[Trial]
    chosen: int


@dataclass(frozen=True)
class Scaling:
    """Brings embeddings to mean 0 and deviation 1; both are (D,)."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, scaling: str = "each") -> Scaling:
        """That suits these: each number by itself, of which those that hardly vary, if at all, are not blown up, or
        all by one factor.
        """
        deviation, mean = torch.std_mean(embeddings, 0, correction=0)
        if scaling == "all":
            deviation = deviation.square().mean().sqrt().expand_as(deviation).clone()
        return cls(mean, deviation.clamp(min=1e-6 * float(deviation.max()) or 1.0))

    def __call__(self, embeddings: Tensor) -> Tensor:
        return (embeddings - self.mean).div_(self.deviation)


@dataclass(frozen=True)
class Network:
    """Layers of a perceptron on standardised embeddings.

    Attributes:
        scaling: of the embeddings.
        layers: from (M, D) to logits (M, K).
        classes: their names, where known.
    """

    scaling: Scaling
    layers: nn.Sequential
    classes: tuple[str, ...] | None = None

    @torch.inference_mode()
    def log_probabilities(self, embeddings: Tensor | npt.NDArray[np.float32]) -> Tensor:
        """Of each class (M, K), for embeddings (M, D)."""
        return functional.log_softmax(self.layers(self.scaling(torch.as_tensor(embeddings))), 1)

    def answer(self, embeddings: Tensor) -> Answers:
        found = self.log_probabilities(embeddings)
        return Answers(found.argmax(1), found)


@dataclass(frozen=True)
class Neighbours:
    """The classes of the ``count`` nearest training images, by Euclidean distance.

    Each class counts once more than it is found, so that none is held for impossible (Laplace).
    """

    train: Samples
    count: int
    classes: int

    def answer(self, embeddings: Tensor) -> Answers:
        return _voted(self.nearest(embeddings), self.classes)

    def nearest(self, embeddings: Tensor) -> Tensor:
        """Classes (M, count) of the nearest, the nearest of all first."""
        with threadpool_limits(torch.get_num_threads()):
            search = NearestNeighbors(algorithm="brute").fit(self.train.embeddings.numpy())
            found = search.kneighbors(embeddings.numpy(), self.count, return_distance=False)
        return self.train.labels[torch.from_numpy(found)]


@dataclass(frozen=True)
class Machine:
    """A support vector machine on standardised embeddings.

    How far an image lies from its planes is no probability, so it gives none.
    """

    scaling: Scaling
    machine: SVC

    def answer(self, embeddings: Tensor) -> Answers:
        with threadpool_limits(torch.get_num_threads()):
            return Answers(torch.from_numpy(self.machine.predict(self.scaling(embeddings).numpy())))


def _voted(near: Tensor, classes: int) -> Answers:
    """By classes (M, k) of neighbours; of classes found equally often the first, as scikit-learn has it."""
    votes = torch.zeros(len(near), classes, dtype=torch.float64)
    votes.scatter_add_(1, near, torch.ones_like(near, dtype=votes.dtype))
    return Answers(votes.argmax(1), ((votes + 1) / (near.shape[1] + classes)).log())


def best(trials: Sequence[Trial]) -> int:
    """The trial of most accuracy on validation images, of those the one of least cross-entropy, of those the first."""
    return min(
        range(len(trials)),
        key=lambda i: (-trials[i]["validation_accuracy"], trials[i].get("validation_cross_entropy", 0.0)),
    )


def _means(part: str, scores: Mapping[str, Tensor]) -> Trial:
    return {f"{part}_{name}": float(values.mean()) for name, values in scores.items()}


def fit_network(
    train: Samples,
    validation: Samples,
    classes: int,
    *,
    hidden: Sequence[int],
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    device: torch.device,
    advance: Callable[[int], None],
    noise: float = 0.0,
    weight_decay: float = 0.0,
    scaling: str = "each",
) -> Fitted:
    """A perceptron trained by AdamW on the cross-entropy, its rate falling to 0 along half a cosine; the best epoch is
    kept.

    Its trials are the epochs. What they note of training images was found batch by batch, before each step.

    Args:
        train: to learn from.
        validation: to choose by.
        classes: K.
        hidden: widths between embedding and classes; none makes it linear.
        epochs: how often every training image is seen.
        batch_size: images a step.
        lr: at the start.
        seed: of weights and orders.
        device: to train on.
        advance: told of each epoch that is done.
        noise: deviation of normal noise on each number of the scaled training embeddings, drawn anew for each step.
        weight_decay: of AdamW (Loshchilov and Hutter, 2019).
        scaling: each number by itself, or all by one factor.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    scaled, widths = Scaling.of(train.embeddings, scaling), [train.embeddings.shape[1], *hidden, classes]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "probe weights"))
        layers = perceptron(widths, 0.0).to(device)
    inputs, labels = scaled(train.embeddings).to(device), train.labels.to(device)
    held = scaled(validation.embeddings).to(device)
    optimizer = torch.optim.AdamW(layers.parameters(), lr, weight_decay=weight_decay)
    scheduler = CosineAnnealingLR(optimizer, epochs * -(-len(train) // batch_size))
    trials: list[Trial] = []
    weights: dict[str, Tensor] = {}
    for epoch in range(epochs):
        order = torch.randperm(len(train), generator=torch_generator(seed, "probe order", epoch)).to(device)
        blurring = torch_generator(seed, "probe noise", epoch)
        losses, hits = [], []
        for rows in torch.split(order, batch_size):
            shown = inputs[rows]
            if noise:
                shown = shown + noise * torch.randn(shown.shape, generator=blurring).to(device)
            logits = layers(shown)
            each = functional.cross_entropy(logits, labels[rows], reduction="none")
            optimizer.zero_grad()
            torch.autograd.backward(each.mean())
            optimizer.step()
            scheduler.step()
            losses.append(each.detach())
            hits.append(logits.argmax(1) == labels[rows])
        with torch.no_grad():
            found = functional.log_softmax(layers(held), 1).cpu()
        learned = {"accuracy": torch.cat(hits).double(), "cross_entropy": torch.cat(losses).double()}
        held_out = Answers(found.argmax(1), found).scores(validation.labels)
        trials.append({"epoch": epoch, **_means("train", learned), **_means("validation", held_out)})
        if not all(np.isfinite(value) for value in trials[-1].values()):
            raise TrainingError(
                f"the loss of a classifier of embeddings is no longer a number in epoch {epoch}; "
                "set evaluation.probe.lr lower"
            )
        if best(trials) == epoch:
            weights = {name: value.cpu().clone() for name, value in layers.state_dict().items()}
        advance(1)
    return Fitted(Network(scaled, _layers(widths, weights)), trials, best(trials))


def fit_neighbours(
    train: Samples, validation: Samples, classes: int, *, neighbours: Sequence[int], advance: Callable[[int], None]
) -> Fitted:
    """Nearest neighbours; their number is tried out, no more than there are training images."""
    counts = sorted({min(count, len(train)) for count in neighbours})
    near = Neighbours(train, counts[-1], classes).nearest(validation.embeddings)
    answers = {count: _voted(near[:, :count], classes) for count in counts}
    trials = [
        {"neighbours": count, **_means("validation", found.scores(validation.labels))}
        for count, found in answers.items()
    ]
    advance(1)
    return Fitted(Neighbours(train, counts[best(trials)], classes), trials, best(trials))


def fit_logistic(
    train: Samples, validation: Samples, classes: int, *, strengths: Sequence[float], advance: Callable[[int], None]
) -> Fitted:
    """Multinomial logistic regression, whose strength of fit over regularisation is tried out.

    Training images show every class: of others it would say that they are impossible.
    """
    scaling = Scaling.of(train.embeddings)
    inputs, labels = scaling(train.embeddings).numpy(), train.labels.numpy()

    def fit(strength: float) -> Network:
        with threadpool_limits(torch.get_num_threads()):
            found = LogisticRegression(C=strength, max_iter=MOST_STEPS).fit(inputs, labels)
        weights = {"0.weight": torch.from_numpy(found.coef_), "0.bias": torch.from_numpy(found.intercept_)}
        if classes == 2:  # it tells the second from the first, whose own logit is 0
            weights = {name: torch.cat([torch.zeros_like(value), value]) for name, value in weights.items()}
        return Network(scaling, _layers([inputs.shape[1], classes], weights))

    return _tried(fit, validation, strengths, advance)


def fit_machine(
    train: Samples,
    validation: Samples,
    classes: int,
    *,
    strengths: Sequence[float],
    images: int,
    advance: Callable[[int], None],
) -> Fitted:
    """A support vector machine with a Gaussian kernel on the first ``images``; its strength is tried out."""
    some = train.first(images)
    scaling = Scaling.of(some.embeddings)
    inputs, labels = scaling(some.embeddings).numpy(), some.labels.numpy()

    def fit(strength: float) -> Machine:
        with threadpool_limits(torch.get_num_threads()):
            return Machine(scaling, SVC(C=strength, cache_size=1000).fit(inputs, labels))

    return _tried(fit, validation, strengths, advance)


def _tried(
    fit: Callable[[float], Probe], validation: Samples, strengths: Sequence[float], advance: Callable[[int], None]
) -> Fitted:
    probes, trials = [], []
    for strength in strengths:
        probes.append(fit(strength))
        scores = probes[-1].answer(validation.embeddings).scores(validation.labels)
        trials.append({"strength": strength, **_means("validation", scores)})
        advance(1)
    return Fitted(probes[best(trials)], trials, best(trials))


def save_probe(path: Path, fitted: Fitted, key: str, classes: Sequence[str] | None) -> None:
    """Write a classifier that is a network, for `load_probe`.

    Args:
        path: of the file.
        fitted: the classifier.
        key: stands for all that it follows from.
        classes: their names, where known.
    """
    network = fitted.probe
    assert isinstance(network, Network)
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    contents = {
        "format": FORMAT,
        "key": key,
        "classes": list(classes) if classes else None,
        "widths": [linear[0].in_features, *(layer.out_features for layer in linear)],
        "mean": network.scaling.mean,
        "deviation": network.scaling.deviation,
        "weights": network.layers.state_dict(),
        "trials": fitted.trials,
        "chosen": fitted.chosen,
    }
    with files.atomic_file(path) as file:
        torch.save(contents, file)


def load_probe(path: Path) -> Network:
    """A saved classifier, whose `Network.log_probabilities` tells the classes of embeddings.

    Raises:
        RunError: there is none, or the file is damaged.
    """
    network = load_fitted(path)[0].probe
    assert isinstance(network, Network)
    return network


def load_fitted(path: Path) -> tuple[Fitted, str]:
    """A saved classifier with its trials, and its key; raises as `load_probe`."""
    try:
        contents: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if contents["format"] != FORMAT:
            raise ValueError(f"format {contents['format']} where {FORMAT} is expected")
        scaling, names = Scaling(contents["mean"], contents["deviation"]), contents["classes"]
        layers = _layers(contents["widths"], contents["weights"])
        network = Network(scaling, layers, tuple(names) if names else None)
        return Fitted(network, contents["trials"], contents["chosen"]), contents["key"]
    except FileNotFoundError:
        raise RunError(f"the saved classifier {path} is not there") from None
    except Exception as error:  # torch hands on whatever a damaged file leads it to
        raise RunError(
            f"the saved classifier {path} is damaged or foreign: {str(error).partition(chr(10))[0]}"
        ) from None


def _layers(widths: Sequence[int], weights: Mapping[str, Tensor]) -> nn.Sequential:
    """A perceptron of these weights, that learns no more."""
    with torch.device("meta"):
        layers = perceptron(widths, 0.0)
    layers.load_state_dict(weights, assign=True)
    return layers.requires_grad_(False)
