"""The MLP and linear probes, and saving and loading of trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from fragrecon import files
from fragrecon.errors import RunError, TrainingError
from fragrecon.evaluation.probes.base import Advance, FittedProbe, Predictions, Probe, Samples, Scaling, best, means
from fragrecon.models.blocks import mlp
from fragrecon.seeds import seed_of, torch_generator

FORMAT = 1
"""Version of the file format."""


@dataclass(frozen=True)
class Network:
    """A trained MLP or linear layer on scaled embeddings.

    Attributes:
        scaling: scaling of the embeddings.
        layers: layers from (M, D) to logits (M, K).
        classes: names of the classes, if known.
    """

    scaling: Scaling
    layers: nn.Sequential
    classes: tuple[str, ...] | None = None

    @torch.inference_mode()
    def log_probabilities(self, embeddings: Tensor | npt.NDArray[np.float32]) -> Tensor:
        """Return log-probabilities (M, K) for embeddings (M, D)."""
        return functional.log_softmax(self.layers(self.scaling(torch.as_tensor(embeddings))), 1)

    def predict(self, embeddings: Tensor) -> Predictions:
        """Classify embeddings (M, D)."""
        found = self.log_probabilities(embeddings)
        return Predictions(found.argmax(1), found)


@dataclass(frozen=True)
class NetworkProbe(Probe):
    """An MLP, or a linear layer, trained with AdamW (Loshchilov and Hutter, 2019) on the cross-entropy.

    The learning rate decays to 0 along half a cosine. The trials are the epochs; the best epoch by validation is used.
    Training scores are those of each batch before its step.

    Attributes:
        hidden: widths of the hidden layers; empty for a linear probe.
        epochs: number of epochs.
        batch_size: images per step.
        lr: initial learning rate.
        seed: seed of initial weights, batch order and noise.
        device: device to train on.
        noise: standard deviation of Gaussian noise added to the scaled training embeddings at each step.
        weight_decay: weight decay of AdamW.
        scaling: ``each`` scales every dimension separately, ``all`` scales all dimensions by one factor.
    """

    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    lr: float
    seed: int
    device: torch.device
    noise: float = 0.0
    weight_decay: float = 0.0
    scaling: str = "each"
    tried: ClassVar[str] = "epochs"
    saved: ClassVar[bool] = True

    @property
    def steps(self) -> int:
        """Number of epochs."""
        return self.epochs

    def fit(self, train: Samples, validation: Samples, classes: int, advance: Advance) -> FittedProbe:
        """See `Probe.fit`.

        Returns:
            The fitted probe.

        Raises:
            TrainingError: the loss is not finite.
        """
        seed, device = self.seed, self.device
        scaled, widths = Scaling.of(train.embeddings, self.scaling), [train.embeddings.shape[1], *self.hidden, classes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "probe weights"))
            layers = mlp(widths, 0.0).to(device)
        inputs, labels = scaled(train.embeddings).to(device), train.labels.to(device)
        held = scaled(validation.embeddings).to(device)
        optimizer = torch.optim.AdamW(layers.parameters(), self.lr, weight_decay=self.weight_decay)
        scheduler = CosineAnnealingLR(optimizer, self.epochs * -(-len(train) // self.batch_size))
        trials = []
        weights: dict[str, Tensor] = {}
        for epoch in range(self.epochs):
            order = torch.randperm(len(train), generator=torch_generator(seed, "probe order", epoch)).to(device)
            noise = torch_generator(seed, "probe noise", epoch)
            losses, hits = [], []
            for rows in torch.split(order, self.batch_size):
                shown = inputs[rows]
                if self.noise:
                    shown = shown + self.noise * torch.randn(shown.shape, generator=noise).to(device)
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
            held_out = Predictions(found.argmax(1), found).scores(validation.labels)
            trials.append({"epoch": epoch, **means("train", learned), **means("validation", held_out)})
            if not all(np.isfinite(value) for value in trials[-1].values()):
                raise TrainingError(
                    f"the loss of a probe is not finite in epoch {epoch}; set evaluation.probe.lr lower"
                )
            if best(trials) == epoch:
                weights = {name: value.cpu().clone() for name, value in layers.state_dict().items()}
            advance(1)
        return FittedProbe(Network(scaled, layers_of(widths, weights)), trials, best(trials))


def layers_of(widths: Sequence[int], weights: Mapping[str, Tensor]) -> nn.Sequential:
    """Build layers with these weights, which need no gradients."""
    with torch.device("meta"):
        layers = mlp(widths, 0.0)
    layers.load_state_dict(weights, assign=True)
    return layers.requires_grad_(False)


def save_probe(path: Path, fitted: FittedProbe, key: str, classes: Sequence[str] | None) -> None:
    """Save a trained network; `load_probe` reads it.

    Args:
        path: file to write.
        fitted: trained probe whose classifier is a `Network`.
        key: hash of everything that it depends on.
        classes: names of the classes, if known.
    """
    network = fitted.classifier
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
    """Load a trained network; its method `Network.log_probabilities` classifies embeddings.

    Args:
        path: file written by `save_probe`.

    Returns:
        The network.

    Raises:
        RunError: the file is missing or damaged.
    """
    network = load_fitted(path)[0].classifier
    assert isinstance(network, Network)
    return network


def load_fitted(path: Path) -> tuple[FittedProbe, str]:
    """Load a trained network with its trials and key; raises the errors of `load_probe`."""
    try:
        contents: dict[str, Any] = files.read_tensors(path)
        if contents["format"] != FORMAT:
            raise ValueError(f"format {contents['format']} where {FORMAT} is expected")
        names = contents["classes"]
        network = Network(
            Scaling(contents["mean"], contents["deviation"]),
            layers_of(contents["widths"], contents["weights"]),
            tuple(names) if names else None,
        )
        network.log_probabilities(torch.zeros(1, contents["widths"][0]))  # whether its parts fit each other
        return FittedProbe(network, contents["trials"], contents["chosen"]), contents["key"]
    except FileNotFoundError:
        raise RunError(f"there is no saved probe {path}") from None
    except Exception as error:  # torch raises various errors for damaged files
        raise RunError(f"the saved probe {path} is damaged: {str(error).partition(chr(10))[0]}") from None
