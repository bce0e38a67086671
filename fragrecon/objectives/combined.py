"""A weighted sum of other objectives."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, nearest
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Losses, Objective, Weight


class Combined(Objective):
    """Weighted sum of several objectives. Their parts are logged with the objective's name, such as ``vae_kl``.

    Args:
        terms: config of each objective, by name.
        weights: weight of each loss, by name; terms of weight 0 are not built.
        make: function that builds an objective from its config.

    Raises:
        ConfigError: a weight has no term, no weight is positive, or a term is invalid.
    """

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, Any]],
        weights: Mapping[str, Weight],
        make: Callable[[Mapping[str, Any]], Objective],
    ) -> None:
        super().__init__()
        for name in weights:
            if name not in terms:
                raise ConfigError(f"objective.weights.{name} does not name a term{nearest(name, terms)}")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise ConfigError(
                "objective.weights are all 0; at least one should be positive, such as "
                f"objective.weights.{next(iter(terms), 'vae')}=1"
            )
        self.terms = nn.ModuleDict({name: _term(name, terms[name], make) for name in self.weights})
        self.parts = ("loss", *(f"{name}_{part}" for name, term in self._terms() for part in term.parts))

    def check(self, model: FragmentModel) -> None:
        """Check that a model can be trained for all terms."""
        for name, term in self._terms():
            try:
                term.check(model)
            except ConfigError as error:
                raise ConfigError(
                    f"{_with_key(error, name)}; objective.weights.{name}=0 leaves this term out"
                ) from None

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        """Compute the losses of a batch; see `Objective`."""
        found: dict[str, Losses] = {name: term(model, batch, generator) for name, term in self._terms()}
        total = sum(self.weights[name] * losses["loss"] for name, losses in found.items())
        parts = {f"{name}_{part}": value.detach() for name, losses in found.items() for part, value in losses.items()}
        return {"loss": cast(torch.Tensor, total), **parts}

    def _terms(self) -> list[tuple[str, Objective]]:
        return [(name, cast(Objective, term)) for name, term in self.terms.items()]


def _term(name: str, node: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Objective]) -> Objective:
    try:
        return make(node)
    except ConfigError as error:
        raise ConfigError(_with_key(error, name)) from None


def _with_key(error: ConfigError, name: str) -> str:
    """Return the message about a term with ``objective`` replaced by the key of that term."""
    return re.sub(r"\bobjective\b(?=[.:])", f"objective.terms.{name}", str(error))
