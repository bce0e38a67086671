"""Run the parts of the evaluation in order."""

from __future__ import annotations

from fragrecon.config.schema import Config, class_name
from fragrecon.data.module import FragmentData
from fragrecon.errors import ConfigError
from fragrecon.evaluation.clustering.scoring import score_clustering
from fragrecon.evaluation.own import metrics_of, score_own
from fragrecon.evaluation.pixels.perceptual import PerceptualNetworks
from fragrecon.evaluation.pixels.scoring import score_pixels
from fragrecon.evaluation.probes.scoring import probing_of, score_probes
from fragrecon.evaluation.setup import PartResult, Scoring
from fragrecon.machine import device_of
from fragrecon.models.base import Decoder, FragmentModel, Inpainter

PARTS = (score_clustering, score_pixels, score_probes, score_own)
"""The parts in order; each returns an empty result if the config disables it."""


def score_parts(scoring: Scoring) -> PartResult:
    """Run all parts that the config enables, and join their results.

    Args:
        scoring: model and data; trained probes are saved in the first of ``probe_folders``.

    Returns:
        The results of all parts, with at least an entry for the model.
    """
    return PartResult.joined([*(part(scoring) for part in PARTS), PartResult({"model": {}})])


def check_abilities(config: Config, model: FragmentModel) -> None:
    """Check that a model can be scored with the config.

    Raises:
        ConfigError: the model lacks a method that the evaluation needs, a pretrained network is not available, or a
            metric of the user cannot be built.
    """
    metrics_of(config)
    evaluation, name = config.evaluation, class_name(config)
    if evaluation.reconstruction:
        if not isinstance(model, (Inpainter, Decoder)):
            raise ConfigError(
                f"evaluation=reconstruction needs a model that inpaints or decodes, such as model=mae or model=conv; "
                f"{name} does neither"
            )
        if config.objective.get("normalize"):
            raise ConfigError(
                "evaluation=reconstruction scores pixels, but with objective.normalize=true the model predicts patches "
                "without their mean and variance; set evaluation.reconstruction=null"
            )
    if evaluation.generation and not isinstance(model, Decoder):
        raise ConfigError(f"evaluation=generation needs a model that decodes, such as model=vae; {name} does not")
    if evaluation.puzzles:
        asked = [part.perceptual for part in (evaluation.reconstruction, evaluation.generation) if part]
        PerceptualNetworks(sorted({network for part in asked for network in part}), device_of(config.trainer))


def check_data(config: Config, data: FragmentData) -> None:
    """Check that the test split, and for probes the other splits, hold enough images and labels.

    Raises:
        ConfigError: there are too few images for the perceptual scores or for a probe.
        DataError: there is no test split, it has too few images for a puzzle, or probes lack labels or a second class.
    """
    if not config.evaluation.puzzles:
        return
    data.check_test(config.evaluation.puzzles)
    reconstruction = config.evaluation.reconstruction
    images = len(data.test_set(config.evaluation.puzzles)) * config.data.images_per_puzzle
    if reconstruction and reconstruction.perceptual and images < 2:
        raise ConfigError(
            "evaluation.reconstruction.perceptual compares distributions and needs at least 2 test images, not 1"
        )
    if config.evaluation.probe:
        probing_of(config, data, device_of(config.trainer))
