"""Build a model and its objective from the config, either new or with the weights of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fragrecon.config.build import build
from fragrecon.config.schema import Config
from fragrecon.errors import ConfigError, RunError
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Objective
from fragrecon.runs.checkpoints import load_checkpoint
from fragrecon.seeds import seed_of


@dataclass(frozen=True)
class Facts:
    """Facts about the data that the constructors of models and objectives may take as arguments.

    Attributes:
        fragment_shape: (C, h, w).
        grid: rows and columns of fragments in an image.
        num_classes: number of classes in the data set.
    """

    fragment_shape: tuple[int, int, int]
    grid: tuple[int, int]
    num_classes: int


def build_model(config: Config, facts: Facts, *, new: bool = True) -> tuple[FragmentModel, Objective]:
    """Build a new model, initialised by the run's seed, and its objective.

    Args:
        config: run config.
        facts: facts about its data.
        new: whether a model that starts from pretrained weights should load them.

    Returns:
        The model and the objective.

    Raises:
        ConfigError: a setting is invalid, or model, objective and data are incompatible.
    """
    model = _new_model(config, facts, new=new)
    if config.data.variable_width and not model.any_size:
        raise ConfigError(
            f"data.image_height makes the width of images variable, but {type(model).__name__} needs a fixed size; "
            "use a model for images of any size, or set data.image_size instead of data.image_height"
        )
    objective = build_objective(config.objective, facts, model.latent_dim)
    objective.check(model)
    return model, objective


def _new_model(config: Config, facts: Facts, *, new: bool) -> FragmentModel:
    # Torch's global generator is also the one that the objective draws from.
    torch.manual_seed(seed_of(config.seed, "initial weights"))
    model: FragmentModel = build(config.model, "model", FragmentModel, load_pretrained=new, **vars(facts))
    return model


def build_objective(node: Mapping[str, Any], facts: Facts, latent_dim: int) -> Objective:
    """Build an objective and its terms.

    Args:
        node: ``objective`` section of the config.
        facts: facts about the data.
        latent_dim: dimensions of the model's embeddings.

    Returns:
        The objective.

    Raises:
        ConfigError: a setting is invalid, or ``_target_`` is not an `Objective`.
    """

    def make(part: Mapping[str, Any]) -> Objective:
        objective: Objective = build(part, "objective", Objective, make=make, latent_dim=latent_dim, **vars(facts))
        return objective

    return make(node)


def build_on_meta(config: Config, grid: tuple[int, int]) -> tuple[FragmentModel, Objective]:
    """Build the model and the objective on the meta device, to find config errors before any data is read.

    Args:
        config: run config.
        grid: rows and columns of fragments in an image.

    Returns:
        The model and the objective, for one class and without weights.

    Raises:
        ConfigError: `build_model` would refuse the config.
    """
    with torch.device("meta"):
        return build_model(config, Facts(config.data.fragment_shape, grid, num_classes=1), new=False)


def restore(config: Config, checkpoint: Path) -> FragmentModel:
    """Rebuild the model of a run, without its objective.

    Args:
        config: run config.
        checkpoint: file with the run's weights.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        RunError: the checkpoint is damaged, or its weights do not fit the model.
    """
    contents = load_checkpoint(checkpoint)
    facts = Facts(**contents["facts"])
    # Whether the weights fit is checked before memory is taken, if the model can be built without memory.
    with suppress(RuntimeError), torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that weights are not copied
        load_weights(_new_model(config, facts, new=False), checkpoint, contents)
    try:
        model = _new_model(config, facts, new=False)
    except RuntimeError as error:
        raise RunError(f"the model of {checkpoint} cannot be built: {str(error).partition(chr(10))[0][:200]}") from None
    load_weights(model, checkpoint, contents)
    return model.eval()


def load_weights(model: FragmentModel, checkpoint: Path, contents: dict[str, Any] | None = None) -> None:
    """Load the weights of a checkpoint into a model, in place.

    Args:
        model: model to load the weights into.
        checkpoint: checkpoint file.
        contents: contents of the file, if already loaded.

    Raises:
        RunError: the weights do not fit the model.
    """
    contents = contents or load_checkpoint(checkpoint)
    prefix = "model."
    weights = {
        key.removeprefix(prefix): value for key, value in contents["state_dict"].items() if key.startswith(prefix)
    }
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise RunError(
            f"the weights in {checkpoint} do not fit {type(model).__name__} with the configured settings: "
            f"{first[0].strip()[:200]}"
        ) from None
