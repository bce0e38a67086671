"""A weighted sum of other objectives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError, nearest
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Losses, Objective


class Combined(Objective):
    """Several objectives at once. The parts of each are reported under its name, as in ``vae_kl``.

    Args:
        terms: what each objective is made from, by name.
        weights: of the terms' losses; one of 0 leaves its term out, as if it were not there.
        make: from one of the former to the objective.

    Raises:
        ConfigError: a weight that is negative or of no term, or none that is positive.
    """

    def __init__(
        self,
        terms: Mapping[str, Mapping[str, Any]],
        weights: Mapping[str, float],
        make: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        super().__init__()
        for name, weight in weights.items():
            if name not in terms:
                raise ConfigError(f"objective.weights.{name} is the weight of no term{nearest(name, terms)}")
            if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
                raise ConfigError(f"objective.weights.{name}={weight} should be a number, at least 0")
        self.weights = {name: weight for name, weight in weights.items() if weight}
        if not self.weights:
            raise ConfigError(
                "objective.weights are all 0: give what should be trained for a weight of its own, such as "
                f"objective.weights.{next(iter(terms), 'vae')}=1"
            )
        self.terms = nn.ModuleDict({name: _term(name, terms[name], make) for name in self.weights})
        self.parts = ("loss", *(f"{name}_{part}" for name, term in self._terms() for part in term.parts))

    def check(self, model: FragmentModel) -> None:
        for name, term in self._terms():
            try:
                term.check(model)
            except ConfigError as error:
                raise ConfigError(f"{_placed(error, name)}; objective.weights.{name}=0 leaves this term out") from None

    def forward(self, model: FragmentModel, batch: FragmentBatch, generator: torch.Generator) -> Losses:
        found: dict[str, Losses] = {name: term(model, batch, generator) for name, term in self._terms()}
        total = sum(self.weights[name] * losses["loss"] for name, losses in found.items())
        parts = {f"{name}_{part}": value.detach() for name, losses in found.items() for part, value in losses.items()}
        return {"loss": cast(torch.Tensor, total), **parts}

    def _terms(self) -> list[tuple[str, Objective]]:
        return [(name, cast(Objective, term)) for name, term in self.terms.items()]


def _term(name: str, node: Mapping[str, Any], make: Callable[[Mapping[str, Any]], Any]) -> Objective:
    try:
        term = make(node)
    except ConfigError as error:
        raise ConfigError(_placed(error, name)) from None
    if not isinstance(term, Objective):
        raise ConfigError(f"objective.terms.{name}._target_='{node['_target_']}' is not an objective")
    return term


def _placed(error: ConfigError, name: str) -> str:
    """What is wrong with a term, its keys named as they are typed where it is one of several."""
    return re.sub(r"\bobjective\b(?=[.:])", f"objective.terms.{name}", str(error))
