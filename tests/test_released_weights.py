"""The released weights: they put photographs together, and score as recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fragrecon import load_run
from tests.cli import ROOT, Cli, job, read_json
from tests.jobs.reassembled import CHINA
from tests.layouts import real

WEIGHTS = ROOT / "packages" / "fragrecon-mosaic" / "src" / "fragrecon_mosaic"
RECORDED = ROOT / "experiments" / "results" / "compressed" / "mosaic_any.npz"
PUZZLES = 6

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not WEIGHTS.is_dir(), reason="not a checkout"),
]


def reassembled(folder: Path, cache: Path, *given: str) -> dict[str, Any]:
    """Reassemble the two photographs of scikit-learn."""
    line = ["mode=reassemble", f"run={WEIGHTS}", f"input={CHINA.parent}", "loose=false", *given]
    Cli(folder, cache).here(*line, "hydra.run.dir=reassembled").ok()
    placement: dict[str, Any] = read_json(folder / "reassembled" / "placement.json")
    assert placement["images"] == 2
    return placement


def test_photographs_are_put_together(tmp_path: Path, cache: Path) -> None:
    assert reassembled(tmp_path, cache)["scores"]["perfect"] == 1


def test_fragments_of_a_photograph_are_rotated_back_alike(tmp_path: Path, cache: Path) -> None:
    fragments = reassembled(tmp_path, cache, "rotate=true")["fragments"]
    for image in range(2):
        own = [row for row in fragments if row["image"] == image]
        assert len({row["file"] for row in own}) == 1
        left = Counter((row["rotation"] - row["rotated"]) % 360 for row in own)
        assert max(left.values()) >= 14


def test_puzzles_are_scored_as_recorded(tmp_path: Path, cache: Path, real_data: Path) -> None:
    root = real(real_data, "imagenet64")
    job(tmp_path, cache, "mode=evaluate", f"run={WEIGHTS}", f"data.root={root}", f"evaluation.puzzles={PUZZLES}")
    with np.load(tmp_path / "scores.npz") as found, np.load(RECORDED) as recorded:
        for metric in ("kmeans_ari", "reassembly_direct"):
            ours, theirs = found[f"model/{metric}"], recorded[f"model/{metric}"][:PUZZLES]
            assert theirs.mean() > 0.9
            # Products are rounded differently on other machines, which changes a fragment now and then.
            np.testing.assert_allclose(ours, theirs, atol=0.05)
            assert np.abs(ours - theirs).mean() < 0.01


def test_the_card_shows_the_recorded_scores() -> None:
    scores = load_run(WEIGHTS).metrics["scores"]["model"]
    card = (WEIGHTS / "MODEL_CARD.md").read_text()
    for metric in ("kmeans_ari", "reassembly_perfect"):
        assert f"{scores[metric]['mean']:.3f}" in card
