"""The pixel part of a scoring: reconstruction or inpainting, and samples of the prior."""

from __future__ import annotations

from fragrecon.evaluation.clustering.protocol import evaluate
from fragrecon.evaluation.pixels.baselines import InpaintingBaselines
from fragrecon.evaluation.pixels.generation import Generation
from fragrecon.evaluation.pixels.inpainting_examples import first_inpainted
from fragrecon.evaluation.pixels.perceptual import (
    PerceptualNetworks,
    PerceptualScores,
    composites,
    decoded,
    score_perceptual,
)
from fragrecon.evaluation.pixels.reconstruction import Masking, downsampled, reconstruction_of
from fragrecon.evaluation.setup import PartResult, Scoring, protocol_of
from fragrecon.models.base import Inpainter
from fragrecon.progress import progress


def score_pixels(scoring: Scoring) -> PartResult:
    """Score what a model reconstructs, inpaints or generates.

    Args:
        scoring: model and data; `fragrecon.evaluation.suite.check_abilities` accepts the model.

    Returns:
        Scores and images to show; empty if the config asks for neither reconstruction nor generation.
    """
    evaluation = scoring.config.evaluation
    parts = [score_reconstruction(scoring)] if evaluation.reconstruction else []
    if evaluation.generation:
        parts.append(score_generation(scoring))
    elif evaluation.reconstruction and not evaluation.clustering and not isinstance(scoring.model, Inpainter):
        parts.append(PartResult(generated=generation_of(scoring).show(protocol_of(scoring.config))))
    return PartResult.joined(parts)


def score_reconstruction(scoring: Scoring) -> PartResult:
    """Score inpainted images beside the baselines of inpainting, or decoded images beside downsampled ones.

    Returns:
        The scores, with those by pretrained networks if the config asks for them.
    """
    reconstruction, model, puzzles = scoring.config.evaluation.reconstruction, scoring.model, scoring.puzzles
    assert reconstruction
    masking = Masking(reconstruction.ratio, scoring.config.evaluation.seed)
    score = reconstruction_of(model, masking)
    assert score is not None  # by `fragrecon.evaluation.suite.check_abilities`
    if isinstance(model, Inpainter):
        baselines = InpaintingBaselines(scoring.data, masking, model.patches, scoring.cache)
        with progress("scoring inpainting baselines", len(puzzles)) as advance:
            scores = baselines.score(puzzles, advance=advance, **scoring.settings)
        prefix, outputs, methods = "composite", composites(model, baselines), {"model": score}
        inpainted = first_inpainted(model, puzzles, masking, scoring.device)
    else:
        methods = {"downsampled": downsampled(model.latent_dim), "model": score}
        prefix, outputs, scores, inpainted = "reconstruction", decoded(model), {}, None
    with progress("scoring reconstructions", len(puzzles)) as advance:
        scores |= evaluate(puzzles, methods, advance=advance, **scoring.settings)
    perceptual, protocol = PerceptualScores(), {"mask_ratio": reconstruction.ratio}
    if reconstruction.perceptual:
        networks = PerceptualNetworks(reconstruction.perceptual, scoring.device)
        with progress("computing perceptual distances", len(puzzles)) as advance:
            perceptual = score_perceptual(
                puzzles, outputs, networks, prefix=prefix, advance=advance, **scoring.settings
            )
        protocol["perceptual_images"] = perceptual.images
    result = PartResult(scores, perceptual.dataset_wide, protocol, inpainted=inpainted)
    return PartResult.joined([result, PartResult(perceptual.scores)])


def score_generation(scoring: Scoring) -> PartResult:
    """Score samples of the prior."""
    asked, generation = scoring.config.evaluation.generation, generation_of(scoring)
    assert asked
    networks, puzzles = PerceptualNetworks(asked.perceptual, scoring.device), generation.puzzles(asked.samples)
    with progress("scoring samples", len(puzzles)) as advance:
        perceptual = generation.score(puzzles, networks, advance)
    return PartResult(
        dataset_wide=perceptual.dataset_wide,
        protocol={"generated_images": perceptual.images or asked.samples},
        generated=generation.show(protocol_of(scoring.config)),
    )


def generation_of(scoring: Scoring) -> Generation:
    """Return the generation of a scoring whose model decodes."""
    return Generation(scoring.model, scoring.data, seed=scoring.config.evaluation.seed, **scoring.settings)
