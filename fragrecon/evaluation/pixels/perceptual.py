"""How near reconstructions are to the images in the eyes of networks that were trained on photographs.

Distances of single images: LPIPS, and the distance of features. Distances of all reconstructions from all images: the
Fréchet distance between Gaussians fitted to their features (Heusel et al., 2017), which with those of Inception is FID.

Shapes: M images (C, H, W) in 0..1, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from fragrecon.data.module import FixedPuzzles
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.evaluation.pixels.inpainting import Fillings
from fragrecon.evaluation.pixels.networks import Networks
from fragrecon.evaluation.pixels.reconstruction import Fill, by_puzzle, fill_of, pixels_of
from fragrecon.evaluation.statistics import Scores
from fragrecon.models.base import Decoder, FragmentModel, Inpainter
from fragrecon.objectives import reconstruction

log = logging.getLogger(__name__)

Output = Callable[[FragmentBatch], Tensor]
"""From a batch with fragments as float to what a method makes of each, (B * F, C, h, w) in 0..1."""


def composites(model: Inpainter, fillings: Fillings) -> dict[str, Output]:
    """The images where they are visible, and where they are hidden what the baselines and the model fill in."""
    grid, masking = model.patches, fillings.masking

    def composite(fill: Fill) -> Output:
        def output(batch: FragmentBatch) -> Tensor:
            images, mask = batch.fragments.flatten(0, 1), masking.draw(batch, grid.count)
            return torch.where(pixels_of(mask, grid, images.shape), fill(images, mask), images)

        return output

    return {name: composite(fill) for name, fill in (*fillings.ways.items(), ("model", fill_of(model)))}


def decoded(model: FragmentModel) -> dict[str, Output]:
    """Whole outputs of a model that decodes."""

    def output(batch: FragmentBatch) -> Tensor:
        assert isinstance(model, Decoder)
        made = reconstruction.decoded_like(model, model.encode(batch.fragments), batch.fragments)
        return made.clamp(0, 1).flatten(0, 1)

    return {"model": output}


class Given(nn.Identity):
    """Stands where a metric expects a network, of which the features are known."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def frechet_distance(num_features: int) -> FrechetInceptionDistance:
    """A metric that is given features (M, D) and keeps sums of them and of their products, over all processes."""
    return FrechetInceptionDistance(Given(num_features))


@dataclass(frozen=True)
class Perceived:
    """How near what methods make of images is to these; nothing where nobody looked.

    Attributes:
        scores: (puzzles,), by method and metric.
        dataset_wide: of all images together, by method and metric.
        images: how many these are.
    """

    scores: dict[str, dict[str, Scores]] = field(default_factory=dict)
    dataset_wide: dict[str, dict[str, float]] = field(default_factory=dict)
    images: int = 0


@torch.inference_mode()
def perceive(
    puzzles: FixedPuzzles,
    outputs: Mapping[str, Output],
    networks: Networks,
    *,
    prefix: str,
    batch_size: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
    setting: str = "evaluation.puzzles",
) -> Perceived:
    """Look at test images, and at what methods make of them, each fragment of a puzzle as an image of its own.

    Args:
        puzzles: what to score on.
        outputs: by method.
        networks: to look with.
        prefix: of the metrics' names.
        batch_size: puzzles at once.
        device: where the networks are.
        advance: told how many puzzles are done, for a progress bar.
        setting: the key that says how many images there are.
    """
    distances = {
        method: {name: frechet_distance(network.num_features) for name, network in networks.features.items()}
        for method in outputs
    }
    rows: dict[str, list[dict[str, Tensor]]] = {method: [] for method in outputs}
    count = 0
    for part in puzzles.parts(batch_size):
        batch = puzzles.read(part).to(device).as_float()
        images = batch.fragments.flatten(0, 1)
        count += len(images)
        truth = networks.see(images)
        for method, output in outputs.items():
            made = output(batch)
            seen = networks.see(made)
            for name, distance in distances[method].items():
                distance.update(truth[name].cpu(), real=True)
                distance.update(seen[name].cpu(), real=False)
            rows[method].append(by_puzzle(networks.compare(made, images, seen, truth), batch))
        advance(len(batch))
    for name, network in networks.features.items():
        if count <= network.num_features:
            log.warning(
                "%s is of %d images, too few for the covariance of %d features: it is biased upwards, and can only be "
                "compared with that of others on the same images; set %s higher",
                name,
                count,
                network.num_features,
                setting,
            )
    return Perceived(
        {
            method: {f"{prefix}_{name}": torch.cat([row[name] for row in found]).numpy() for name in found[0]}
            for method, found in rows.items()
        },
        {
            method: {f"{prefix}_{name}": float(distance.compute()) for name, distance in found.items()}
            for method, found in distances.items()
            if found
        },
        count,
    )
