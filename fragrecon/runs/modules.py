"""From the config's model and objective to modules, new or with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
    """What a model or an objective may ask for by name, besides its own settings.

    Attributes:
        fragment_shape: (C, h, w).
        grid: rows and columns of fragments in an image.
        num_classes: of the data set.
    """

    fragment_shape: tuple[int, int, int]
    grid: tuple[int, int]
    num_classes: int

    def to_dict(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Facts:
        return cls(tuple(values["fragment_shape"]), tuple(values["grid"]), values["num_classes"])


def build_model(config: Config, facts: Facts) -> tuple[FragmentModel, Objective]:
    """A new model, its start keyed on the run's seed, and its objective."""
    model = _new_model(config, facts)
    if config.data.free_width and not model.any_size:
        raise ConfigError(
            f"data.image_height leaves the width of images free, but {type(model).__name__} takes images of one size; "
            "take a model of any size, or leave data.image_height out and set data.image_size"
        )
    objective = build_objective(config.objective, facts, model.latent_dim)
    objective.check(model)
    return model, objective


def _new_model(config: Config, facts: Facts) -> FragmentModel:
    """Drawn by the run's seed, from which what is made next goes on."""
    torch.manual_seed(seed_of(config.seed, "initial weights"))
    model = build(config.model, "model", **vars(facts))
    if not isinstance(model, FragmentModel):
        raise ConfigError(f"model._target_='{config.model['_target_']}' is not a model of fragments")
    return model


def build_objective(node: Mapping[str, Any], facts: Facts, latent_dim: int) -> Objective:
    """A new objective; one that has terms makes these likewise."""

    def make(part: Mapping[str, Any]) -> Any:
        return build(part, "objective", make=make, latent_dim=latent_dim, **vars(facts))

    objective = make(node)
    if not isinstance(objective, Objective):
        raise ConfigError(f"objective._target_='{node['_target_']}' is not an objective")
    return objective


def check_model(config: Config, grid: tuple[int, int]) -> tuple[FragmentModel, Objective]:
    """Build model and objective on the meta device, to refuse a config before any data is read.

    Args:
        config: of the run.
        grid: rows and columns of fragments in an image.

    Returns:
        The model and the objective, for a single class and without weights.

    Raises:
        ConfigError: `build_model` would refuse the config.
    """
    with torch.device("meta"):
        return build_model(config, Facts(config.data.fragment_shape, grid, num_classes=1))


def restore(config: Config, checkpoint: Path) -> FragmentModel:
    """The model of a run with its weights, in eval mode; what it was trained for is not needed for that."""
    contents = load_checkpoint(checkpoint)
    model = _new_model(config, Facts.from_dict(contents["facts"]))
    load_weights(model, checkpoint, contents)
    return model.eval()


def load_weights(model: FragmentModel, checkpoint: Path, contents: dict[str, Any] | None = None) -> None:
    """Give a model the weights of a checkpoint; raises `RunError` where they do not fit."""
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
            f"the weights in {checkpoint} do not fit {type(model).__name__} as it is configured: "
            f"{first[0].strip()[:200]}"
        ) from None
