"""Whole runs of the objectives that have several parts."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from fragrecon.errors import ConfigError
from fragrecon.runs.read import load_run
from tests.cli import SMALL, checkpoint, job, metrics, rows, status, weights

WHOLE = (
    *("data.fragment_size=64", "data.images_per_puzzle=1", "data.puzzles_per_batch=20"),
    *("data.reader.train_images=300", "data.reader.test_images=60", "data.epochs=4"),
    *("evaluation=reconstruction", "evaluation.puzzles=4", "evaluation.validation_puzzles=3"),
    *("evaluation.train_puzzles=0", "selection.monitor=val/psnr"),
)
"""Settings of a small run on whole images."""


def test_a_variational_run_learns_and_records_its_parts(tmp_path: Path, cache: Path) -> None:
    settings = ["model=resnet_vae", "model.width=2", *WHOLE, "optimizer=sgd", "optimizer.lr=1e-4"]
    job(tmp_path / "run", cache, *settings)
    found = rows(tmp_path / "run")
    assert {f"{stage}/{part}" for stage in ("train", "val") for part in ("loss", "error", "kl", "psnr")} <= set(
        found[0]
    )
    first, last = ({key: float(value) for key, value in row.items() if value} for row in (found[0], found[-1]))
    assert last["train/loss"] < 0.8 * first["train/loss"]
    assert last["train/psnr"] > first["train/psnr"]
    for row in (first, last):
        for stage in ("train", "val"):
            total = row[f"{stage}/error"] + 0.1 * row[f"{stage}/kl"]
            assert row[f"{stage}/loss"] == pytest.approx(total, rel=1e-4)
    assert "reconstruction_psnr" in metrics(tmp_path / "run")["scores"]["model"]


def test_a_head_is_trained_with_the_model_as_the_command_line_has_it(tmp_path: Path, cache: Path) -> None:
    settings = [*WHOLE, "model.encoder_channels=[8,8,8]", "model=vae", "objective=combined"]
    given = ["objective.weights.cross_entropy=10", "objective.terms.cross_entropy.hidden=[]"]
    given += ["objective.weights.anti_correlation=1", "selection.monitor=val/vae_psnr"]
    job(tmp_path / "run", cache, *settings, *given)
    state = weights(tmp_path / "run")
    head = state["objective.terms.cross_entropy.head.0.weight"]
    assert head.shape == (10, 128)
    found = rows(tmp_path / "run")
    first, last = ({key: float(value) for key, value in row.items() if value} for row in (found[0], found[-1]))
    assert last["train/loss"] < first["train/loss"]
    assert last["train/cross_entropy_loss"] < first["train/cross_entropy_loss"]
    for stage in ("train", "val"):
        parts = {name: last[f"{stage}/{name}_loss"] for name in ("vae", "cross_entropy", "anti_correlation")}
        total = parts["vae"] + 10 * parts["cross_entropy"] + parts["anti_correlation"]
        assert last[f"{stage}/loss"] == pytest.approx(total, rel=1e-4)
    assert 0 < last["train/anti_correlation_correlation"] < 1
    assert not math.isclose(last["train/vae_kl"], 0)


def test_a_run_is_trained_with_a_perceptual_distance_and_opens_where_its_network_is_not_installed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["model=conv", "model.encoder_channels=[4,8]", "data.batches_per_epoch=3", "data.images_per_puzzle=2"]
    line = [*SMALL, *small, "evaluation.puzzles=2", "objective.perceptual=0.5"]
    job(tmp_path / "run", cache, *line)
    found = rows(tmp_path / "run")
    for row in found:
        total = float(row["val/error"]) + 0.5 * float(row["val/perceptual"])
        assert float(row["val/loss"]) == pytest.approx(total, rel=1e-4)
    kept = checkpoint(tmp_path / "run")
    model = load_run(tmp_path / "run").model
    assert {key for key in kept["state_dict"] if not key.startswith("means.")} == {
        f"model.{k}" for k in model.state_dict()
    }
    assert len(kept["optimizer_states"][0]["state"]) == len(list(model.parameters()))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    opened = load_run(tmp_path / "run").model
    for key, value in model.state_dict().items():
        assert torch.equal(value, opened.state_dict()[key])
    with pytest.raises(ConfigError, match=r"fragrecon\[features\]"):
        job(tmp_path / "other", cache, *line)


def test_a_mixed_model_is_trained_and_scored_from_the_command_line(tmp_path: Path, cache: Path) -> None:
    job(
        tmp_path / "run",
        cache,
        *SMALL,
        "model=mae",
        "model.latent_dim=12",
        "model.depth=1",
        "model.decoder_width=6",
        "model.decoder_depth=1",
        "objective.mix=4",
        "objective.homologous=0.1",
    )
    assert status(tmp_path / "run")["status"] == "done"
    first, last = rows(tmp_path / "run")
    assert float(last["val/contrast_accuracy"]) > 0.25  # chance is 0.2
    assert float(last["val/error"]) < float(first["val/error"])
    whole = float(last["train/error"]) + 0.1 * float(last["train/contrast"])
    assert float(last["train/loss"]) == pytest.approx(whole, rel=1e-3)
