"""Fixtures of the tests of jobs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fragrecon.data.puzzles import FragmentBatch
from fragrecon.training.learner import Learner
from tests.cli import SMALL, shared_run
from tests.jobs.reassembled import TINY


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run of the conv model; only to be read."""
    return shared_run(tmp_path_factory, "conv", *SMALL, "model=conv")


@pytest.fixture(scope="session")
def mosaic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of a small mosaic, which sees whole puzzles; only to be read."""
    return shared_run(tmp_path_factory, "mosaic", *TINY)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the batches that the learner is trained on."""
    steps: list[int] = []
    step_of = Learner.training_step

    def noted(self: Learner, batch: FragmentBatch, batch_idx: int) -> Any:
        steps.append(batch.step)
        return step_of(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", noted)
    return steps


class Moments:
    """Counts moments of a run, and acts at the one of number ``at``, of all or of a kind.

    Attributes:
        kinds: the numbers of the moments of each kind.
    """

    def __init__(self, act: Callable[[Any], None]) -> None:
        self.act = act
        self.restart()

    def pass_by(self, subject: Any, kind: str) -> None:
        self.count += 1
        self.kinds.setdefault(kind, []).append(self.count)
        if self.at == (len(self.kinds[kind]) if kind == self.kind else self.count if not self.kind else -1):
            self.act(subject)

    def restart(self, at: int = 0, kind: str = "") -> None:
        self.at, self.kind, self.count = at, kind, 0
        self.kinds: dict[str, list[int]] = {}

    def different(self) -> list[int]:
        """The first, the second and the last moment of each kind."""
        return sorted({number for numbers in self.kinds.values() for number in (*numbers[:2], numbers[-1])})


@pytest.fixture
def terms(monkeypatch: pytest.MonkeyPatch) -> Moments:
    """Moments at which a SIGTERM can arrive."""

    def arrive(learner: Learner) -> None:
        learner.trainer._signal_connector.received_sigterm = True

    moments = Moments(arrive)

    def watch(name: str) -> None:
        real = getattr(Learner, name)

        def watched(self: Learner, *arguments: Any) -> Any:
            moments.pass_by(self, name)
            return real(self, *arguments)

        monkeypatch.setattr(Learner, name, watched)

    for name in ("training_step", "validation_step", "on_validation_epoch_end", "on_train_epoch_start"):
        watch(name)
    return moments
