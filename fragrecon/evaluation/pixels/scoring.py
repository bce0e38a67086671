"""The pixel part of the evaluation: reconstruction or inpainting, and samples of the prior."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fragrecon.evaluation.cache import cached_scores
from fragrecon.evaluation.clustering.protocol import evaluate
from fragrecon.evaluation.pixels.baselines import LINEAR, inpainting_baselines
from fragrecon.evaluation.pixels.generation import Generation
from fragrecon.evaluation.pixels.inpainting_examples import first_inpainted
from fragrecon.evaluation.pixels.perceptual import PerceptualNetworks, PerceptualScores, score_perceptual
from fragrecon.evaluation.pixels.reconstruction import (
    Masking,
    decoded,
    decoding_score,
    downsampled,
    fill_of,
    inpainted,
    inpainting_score,
)
from fragrecon.evaluation.setup import PartResult, Scoring, protocol_of
from fragrecon.models.base import Inpainter
from fragrecon.progress import progress


def score_pixels(scoring: Scoring) -> PartResult:
    """Score images that a model reconstructs, inpaints or generates.

    Args:
        scoring: model and data; the model must pass `fragrecon.evaluation.suite.check_abilities`.

    Returns:
        Scores and images to draw; empty if the config disables reconstruction and generation.
    """
    evaluation = scoring.config.evaluation
    parts = [score_reconstruction(scoring)] if evaluation.reconstruction else []
    if evaluation.generation:
        parts.append(score_generation(scoring))
    elif evaluation.reconstruction and not evaluation.clustering and not isinstance(scoring.model, Inpainter):
        parts.append(PartResult(generated=generation_of(scoring).show(protocol_of(scoring.config))))
    return PartResult.joined(parts)


def score_reconstruction(scoring: Scoring) -> PartResult:
    """Score inpainted images and inpainting baselines, or decoded images and downsampled images as their baseline.

    Returns:
        The scores, including perceptual ones if the config enables them.
    """
    reconstruction, model, puzzles = scoring.config.evaluation.reconstruction, scoring.model, scoring.puzzles
    assert reconstruction
    masking = Masking(reconstruction.ratio, scoring.config.evaluation.seed)
    facts: dict[str, Any]
    if isinstance(model, Inpainter):
        patches = model.patches
        fills = {**inpainting_baselines(scoring.data, patches), "model": fill_of(model)}
        outputs = {name: inpainted(fill, masking, patches) for name, fill in fills.items()}
        methods = {name: inpainting_score(output, masking, patches) for name, output in outputs.items()}
        prefix, facts = "composite", {"masking": asdict(masking), "patches": patches.count}
        examples = first_inpainted(model, puzzles, masking, scoring.device)
    else:
        outputs = {"model": decoded(model)}
        methods = {
            "downsampled": decoding_score(downsampled(model.latent_dim)),
            "model": decoding_score(decoded(model)),
        }
        prefix, facts, examples = "reconstruction", {"latents": model.latent_dim}, None
    own = {"model": methods.pop("model")}
    with progress("scoring baselines of pixels", len(puzzles)) as advance:
        scores = cached_scores(
            puzzles, methods, scoring.cache, facts, fitted=(LINEAR,), advance=advance, **scoring.settings
        )
    with progress("scoring reconstructions", len(puzzles)) as advance:
        scores |= evaluate(puzzles, own, advance=advance, **scoring.settings)
    perceptual, protocol = PerceptualScores(), {"mask_ratio": reconstruction.ratio}
    if reconstruction.perceptual:
        networks = PerceptualNetworks(reconstruction.perceptual, scoring.device)
        with progress("computing perceptual distances", len(puzzles)) as advance:
            perceptual = score_perceptual(
                puzzles, outputs, networks, prefix=prefix, advance=advance, **scoring.settings
            )
        protocol["perceptual_images"] = perceptual.images
    result = PartResult(scores, perceptual.dataset_wide, protocol, inpainted=examples)
    return PartResult.joined([result, PartResult(perceptual.scores)])


def score_generation(scoring: Scoring) -> PartResult:
    """Score samples of the prior."""
    asked, generation = scoring.config.evaluation.generation, generation_of(scoring)
    assert asked
    networks, puzzles = PerceptualNetworks(asked.perceptual, scoring.device), generation.puzzles(asked.samples)
    with progress("scoring samples", len(puzzles)) as advance:
        perceptual = generation.score(puzzles, networks, advance)
    with progress("example samples", announce=False):
        shown = generation.show(protocol_of(scoring.config))
    return PartResult(
        dataset_wide=perceptual.dataset_wide,
        protocol={"generated_images": perceptual.images or asked.samples},
        generated=shown,
    )


def generation_of(scoring: Scoring) -> Generation:
    """Return the `Generation` of a model that decodes."""
    return Generation(scoring.model, scoring.data, seed=scoring.config.evaluation.seed, **scoring.settings)
