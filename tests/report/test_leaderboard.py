"""The table of a sweep, from jobs whose files are written here with figures that are known."""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from fragrecon import files
from fragrecon.config.schema import Config
from fragrecon.evaluation.statistics import summary
from fragrecon.report import tables
from fragrecon.report.leaderboard import (
    Job,
    Leaderboard,
    Spread,
    best_validation,
    caption,
    duration,
    leaderboard,
    short,
    spread,
    swept,
    troubles,
)
from fragrecon.report.sweep_files import job_line, keep_current, markdown, write
from fragrecon.run import compose
from fragrecon.runs import sweeps
from fragrecon.runs.read import Run
from fragrecon.runs.write import Record

Numbers = npt.NDArray[np.float64]
COMPARED = "mean_clustering_score"
MONITOR = "val_mean_clustering_score"


@pytest.fixture(scope="module")
def config() -> Config:
    return compose(["model=pca"])


class Kept(Run):
    """A run that is not on disk."""

    logged: list[dict[str, float]]

    @property
    def epochs(self) -> list[dict[str, float]]:
        return self.logged


class Sweep:
    """Makes jobs; on disk is only what says that they are scored."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder, self.config = folder, config

    def job(
        self,
        scores: Sequence[float] | Numbers | None = (0.1, 0.2, 0.3),
        *,
        validation: Sequence[float] | None = (0.5,),
        size: str = "8",
        seed: int = 0,
        mode: Literal["min", "max"] = "max",
        puzzle_seed: int = 0,
        methods: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
        images: int = 10,
        mask_ratio: float = 0.85,
        patch: int = 4,
        monitor: str = MONITOR,
        loss: str = "squares",
        parameters: int = 7,
        seconds: float = 2.0,
        unfinished: bool = False,
        given: Mapping[str, str] | None = None,
    ) -> Job:
        """A job whose model has these scores (puzzles,) by ``mean_clustering_score``, and half of them by KMeans ARI.

        ``validation`` is by epoch, ``methods`` replaces the scores, and None stands for none.
        """
        folder = self.folder / f"{size}-{seed}-{len(list(self.folder.glob('*')))}".replace("/", "")
        folder.mkdir()
        config = replace(
            self.config,
            seed=seed,
            selection=replace(self.config.selection, mode=mode, monitor=monitor),
            model=self.config.model | {"patch": patch},
            objective={"_target_": "fragrecon.objectives", "of": loss},
        )
        run = Kept(folder, config, {"status": "running" if unfinished else "done"})
        run.logged = [{"train/loss": 1.0, monitor: value} for value in validation or []] or [{"train/loss": 1.0}]
        if scores is not None:
            values = np.asarray(scores, dtype=np.float64)
            clustered = {"random": {COMPARED: values * 0}, "model": {"kmeans_ari": values / 2, COMPARED: values}}
            own = {
                method: {metric: np.array(value, np.float64) for metric, value in known.items()}
                for method, known in (methods or clustered).items()
            }
            run.scores = {f"{method}/{metric}": value for method in own for metric, value in own[method].items()}
            run.metrics = {
                "scores": {
                    method: {metric: summary(value) for metric, value in known.items()} for method, known in own.items()
                },
                "protocol": {
                    "puzzles": len(values),
                    "images_per_puzzle": images,
                    "seed": puzzle_seed,
                    "mask_ratio": mask_ratio,
                    "fragment_shape": [3, 16, 16],
                },
                "data": {"name": "synthetic", "source": "s"},
                "model": {"name": "PCAAutoencoder", "parameters": parameters},
                "seconds": {"data": 100.0, "training": seconds, "evaluation": seconds},
            }
            (folder / "metrics.json").touch()
        return Job(folder.name, {"model.latent_dim": size, "seed": str(seed), **(given or {})}, run.status, run)

    def failed(self, error: str, *, size: str = "8", seed: int = 0) -> Job:
        status = {"status": "failed", "error": error}
        return Job(f"{size}-{seed}-failed", {"model.latent_dim": size, "seed": str(seed)}, status, None)


@pytest.fixture
def sweep(tmp_path: Path, config: Config) -> Sweep:
    return Sweep(tmp_path, config)


def sizes(board: Leaderboard) -> list[str]:
    return [row.values["model.latent_dim"] for row in board.rows]


def assert_spread(found: Spread | None, mean: float, std: float | None, n: int) -> None:
    assert found is not None
    assert found.mean == pytest.approx(mean)
    assert found.std == (None if std is None else pytest.approx(std))
    assert found.n == n


def paired(first: Numbers, second: Numbers) -> tuple[float, float, float]:
    minus = first - second
    low, high = stats.ttest_1samp(minus, 0.0).confidence_interval(0.95)
    return float(minus.mean()), float(low), float(high)


# Rows -----------------------------------------------------------------------------------------------------------------


def test_seeds_of_a_configuration_make_one_row(sweep: Sweep) -> None:
    jobs = [
        sweep.job([0.1, 0.2], validation=[0.4, 0.6, 0.5], seed=3, parameters=11, seconds=1.0),
        sweep.job([0.3, 0.8], validation=[0.9], seed=1, parameters=11, seconds=4.0),
        sweep.job([0.0, 0.1], validation=[0.1], seed=1, size="16"),
    ]
    board = leaderboard("name", jobs)
    assert (board.name, board.parameters, board.monitor) == ("name", ["model.latent_dim"], MONITOR)
    first, second = board.rows
    assert first.values == {"model.latent_dim": "8"}
    assert (first.seeds, first.jobs) == ([1, 3], [jobs[1].name, jobs[0].name])
    assert first.scores[COMPARED].mean == pytest.approx((0.15 + 0.55) / 2)
    assert first.scores[COMPARED].std == pytest.approx(0.4 / math.sqrt(2))
    assert first.scores["kmeans_ari"].mean == pytest.approx((0.15 + 0.55) / 4)
    assert first.selection is not None
    assert first.selection.mean == pytest.approx(0.75)
    assert first.parameters == 11
    assert first.seconds == pytest.approx(5.0)
    assert second.values == {"model.latent_dim": "16"}
    assert list(board.baselines) == ["random"]
    assert board.baselines["random"][COMPARED]["mean"] == 0


@pytest.mark.fault("one meaning of ± in a column of a leaderboard")
def test_one_seed_has_no_deviation(sweep: Sweep) -> None:
    (row,) = leaderboard("name", [sweep.job([0.1, 0.3])]).rows
    assert_spread(row.scores[COMPARED], 0.2, None, 1)
    assert str(tables.spread(row.scores[COMPARED], COMPARED)) == "0.2000"
    assert_spread(spread([0.1, 0.3]), 0.2, 0.2 / math.sqrt(2), 2)
    assert str(tables.spread(spread([0.1, 0.3]), COMPARED)) == "0.2000 ±.1414"
    assert spread([]) is None
    assert spread([0.1, None]) is None


def test_what_differs_between_jobs_is_a_parameter(sweep: Sweep) -> None:
    jobs = [
        sweep.job(
            size="8", seed=0, given={"optimizer.lr": "0.1", "logger": "csv", "data.cache_dir": "a", "data.root": "x"}
        ),
        sweep.job(
            size="8", seed=1, given={"optimizer.lr": "0.1", "logger": "wandb", "data.cache_dir": "b", "data.root": "x"}
        ),
        sweep.job(size="16", seed=1, given={"optimizer.lr": "0.1", "data.root": "x", "sweep.name": "b"}),
    ]
    assert swept(jobs) == ["model.latent_dim"]
    jobs.append(sweep.job(size="16", seed=2, given={"data.root": "y"}))
    assert sorted(swept(jobs)) == ["data.root", "model.latent_dim", "optimizer.lr"]
    board = leaderboard("name", jobs)
    assert [row.values["optimizer.lr"] for row in board.rows] == ["0.1", "0.1", "0.001"], "else what it was by default"


def test_the_model_is_named_as_on_the_command_line_where_it_was_not_given(sweep: Sweep) -> None:
    jobs = [sweep.job(), sweep.job(given={"model": "conv"})]
    assert {row.values["model"] for row in leaderboard("name", jobs).rows} == {"pca", "conv"}


def test_nothing_is_an_empty_table(tmp_path: Path) -> None:
    board = leaderboard("nothing", [])
    assert (board.rows, board.parameters, board.baselines) == ([], [], {})
    write(board, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"leaderboard.csv", "leaderboard.md"}
    assert "# nothing" in (tmp_path / "leaderboard.md").read_text()


def test_failed_and_unfinished_jobs_are_rows_without_a_rank(sweep: Sweep, tmp_path: Path) -> None:
    traceback = "Traceback (most recent call last):\n  File ...\nZeroDivisionError: division by zero\n"
    jobs = [
        sweep.failed("model.latent_dim=-1 should be at least 1\nand more", size="-1"),
        sweep.failed(traceback, size="-1", seed=1),
        sweep.job(size="8"),
        sweep.failed("too late", size="8", seed=1),
        sweep.job(size="16", scores=None, unfinished=True),
    ]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["8", "-1", "16"]
    assert [(found.job, found.error) for found in board.rows[1].failures] == [
        (jobs[0].name, "model.latent_dim=-1 should be at least 1"),
        (jobs[1].name, "ZeroDivisionError: division by zero"),
    ]
    assert board.rows[0].seeds == [0]
    assert [found.error for found in board.rows[0].failures] == ["too late"]
    assert board.rows[2].unfinished == [jobs[4].name]
    assert set(troubles(board)) == {
        f"{jobs[0].name} failed: model.latent_dim=-1 should be at least 1",
        f"{jobs[1].name} failed: ZeroDivisionError: division by zero",
        f"{jobs[3].name} failed: too late",
        f"{jobs[4].name} has not finished",
    }
    write(board, tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        assert [row["rank"] for row in csv.DictReader(file)] == ["1", "", ""]


def test_a_sweep_of_which_all_failed_has_its_reasons(sweep: Sweep, tmp_path: Path) -> None:
    board = leaderboard("name", [sweep.failed("one", size="1"), sweep.failed("two", size="2")])
    assert (sizes(board), board.monitor, board.baselines) == (["1", "2"], "", {})
    write(board, tmp_path)
    for name in ("leaderboard.csv", "leaderboard.md"):
        assert all(word in (tmp_path / name).read_text() for word in ("one", "two"))


# Order ----------------------------------------------------------------------------------------------------------------


def test_rows_are_ordered_by_validation_and_not_by_the_test_score(sweep: Sweep) -> None:
    jobs = [
        sweep.job([0.9, 0.9], validation=[0.3], size="1"),
        sweep.job([0.1, 0.1], validation=[0.1, 0.7, 0.2], size="2"),
        sweep.job([0.5, 0.5], validation=[0.5], size="3"),
    ]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["2", "3", "1"]
    assert MONITOR in caption(board)
    assert best_validation(jobs[1].run) == 0.7  # type: ignore[arg-type]


def test_a_loss_is_best_where_it_is_least(sweep: Sweep) -> None:
    jobs = [
        sweep.job(validation=[0.9, 0.4], size="1", mode="min"),
        sweep.job(validation=[0.2, 0.8], size="2", mode="min"),
        sweep.job(validation=[0.3, 0.3], size="3", mode="min"),
    ]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["2", "3", "1"]
    assert [row.selection.mean for row in board.rows if row.selection] == [0.2, 0.3, 0.4]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_without_validation_the_test_score_orders_and_the_caption_says_so(
    sweep: Sweep, mode: Literal["min", "max"]
) -> None:
    jobs = [
        sweep.job([0.1, 0.2], validation=None, size="1", mode=mode),
        sweep.job([0.8, 0.9], validation=None, size="2", mode=mode),
        sweep.job([0.5, 0.6], validation=[0.99], size="3", mode=mode),
    ]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["2", "3", "1"]
    assert board.monitor == ""
    assert "mean clustering score" in caption(board)
    assert "validation" not in caption(board)
    assert board.rows[0].difference == {}
    assert board.rows[1].difference[COMPARED]["mean"] == pytest.approx(-0.3)


def test_ties_keep_both_rows_and_differ_by_nothing(sweep: Sweep) -> None:
    jobs = [sweep.job([0.2, 0.4], size="1"), sweep.job([0.2, 0.4], size="2")]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["1", "2"]
    minus = board.rows[1].difference[COMPARED]
    assert minus["mean"] == 0
    assert minus["ci95"] == [0, 0]
    assert str(tables.summed(minus, COMPARED, "+")) == "+0.0000 ±.0000"


def test_where_nothing_was_scored_there_is_validation_alone(sweep: Sweep, tmp_path: Path) -> None:
    board = leaderboard(
        "name", [sweep.job(None, validation=[0.1], size="1"), sweep.job(None, validation=[0.4], size="2")]
    )
    assert sizes(board) == ["2", "1"]
    for row in board.rows:
        assert (row.scores, row.difference, row.parameters, row.seconds) == ({}, {}, None, None)
        assert len(row.jobs) == 1
    write(board, tmp_path)
    assert not any("ARI" in name for name in shown(board)[0])
    assert list(shown(board)[0].values()).count("0.4000") == 1


def test_a_row_whose_seeds_are_not_all_scored_goes_by_those_that_are(sweep: Sweep) -> None:
    jobs = [sweep.job([0.1, 0.3], seed=0), sweep.job(None, seed=1), sweep.job([0.1, 0.1], validation=[0.1], size="16")]
    row = leaderboard("name", jobs).rows[0]
    assert row.seeds == [0, 1]
    assert_spread(row.scores[COMPARED], 0.2, None, 1)


# Differences ----------------------------------------------------------------------------------------------------------


def test_the_difference_to_the_best_is_paired_over_puzzles_and_averaged_over_seeds(sweep: Sweep) -> None:
    random = np.random.default_rng(0)
    best = [random.random(30) for _ in range(2)]
    hard = random.normal(0, 0.3, 30)
    other = [values - 0.1 + random.normal(0, 0.01, 30) + 0 * hard for values in best]
    jobs = [sweep.job(values, validation=[0.9], size="1", seed=seed) for seed, values in enumerate(best)]
    jobs += [sweep.job(values, validation=[0.1], size="2", seed=seed) for seed, values in enumerate(other)]
    first, second = leaderboard("name", jobs).rows
    mean, low, high = paired(np.mean(other, axis=0), np.mean(best, axis=0))
    found = second.difference[COMPARED]
    assert found["mean"] == pytest.approx(mean)
    assert found["ci95"] == pytest.approx([low, high])
    assert high - low < 0.02, "puzzle by puzzle, as what is hard for one is hard for the other"
    assert first.difference == {}


def test_of_seeds_that_only_partly_overlap_those_in_common_are_compared(sweep: Sweep) -> None:
    random = np.random.default_rng(1)
    values = {(size, seed): random.random(12) for size in "12" for seed in range(3)}
    given = [("1", 0), ("1", 1), ("2", 1), ("2", 2)]
    jobs = [
        sweep.job(values[key], validation=[0.9 if key[0] == "1" else 0.1], size=key[0], seed=key[1]) for key in given
    ]
    found = leaderboard("name", jobs).rows[1].difference[COMPARED]
    mean, low, high = paired(values["2", 1], values["1", 1])
    assert found["mean"] == pytest.approx(mean)
    assert found["ci95"] == pytest.approx([low, high])


def test_of_seeds_that_do_not_overlap_all_are_compared(sweep: Sweep) -> None:
    first, second = np.array([0.5, 0.7, 0.9]), np.array([0.1, 0.2, 0.6])
    jobs = [
        sweep.job(first, validation=[0.9], size="1", seed=0),
        sweep.job(second, validation=[0.1], size="2", seed=5),
    ]
    assert leaderboard("name", jobs).rows[1].difference[COMPARED]["mean"] == pytest.approx(-0.4)


@pytest.mark.parametrize("change", [{"puzzle_seed": 1}, {"scores": [0.1, 0.2]}])
def test_on_other_puzzles_there_is_no_difference_in_pairs(sweep: Sweep, change: dict[str, Any]) -> None:
    other = {"scores": [0.1, 0.2, 0.3], "validation": [0.1], "size": "2"} | change
    jobs = [sweep.job([0.4, 0.5, 0.6], validation=[0.9], size="1"), sweep.job(**other)]
    board = leaderboard("name", jobs)
    assert board.rows[1].difference == {}
    assert board.rows[1].scores[COMPARED].mean == pytest.approx(float(np.mean(other["scores"])))


def test_a_single_puzzle_has_a_difference_without_interval(sweep: Sweep, tmp_path: Path) -> None:
    jobs = [sweep.job([0.4], validation=[0.9], size="1"), sweep.job([0.1], validation=[0.1], size="2")]
    board = leaderboard("name", jobs)
    assert board.rows[1].difference[COMPARED]["ci95"] is None
    assert str(tables.summed(board.rows[1].difference[COMPARED], COMPARED, "+")) == "-0.3000"
    write(board, tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        best, other = csv.DictReader(file)
    assert float(other[f"{COMPARED}_minus_best"]) == pytest.approx(-0.3)
    assert other.get(f"{COMPARED}_minus_best_low", "") == ""
    assert best[f"{COMPARED}_minus_best"] == ""


# Of other tasks -------------------------------------------------------------------------------------------------------

Methods = dict[str, dict[str, list[float]]]

MASKED: Methods = {
    "bilinear": {"masked_mse": [0.02, 0.03, 0.04], "masked_psnr": [17, 15, 14], "masked_ssim": [0.2, 0.3, 0.3]},
    "model": {"masked_mse": [0.01, 0.02, 0.05], "masked_psnr": [20, 17, 13], "masked_ssim": [0.4, 0.5, 0.6]},
}
CLUSTERED: Methods = {
    "random": {COMPARED: [0.0, 0.0, 0.0]},
    "model": {"kmeans_ari": [0.1, 0.2, 0.3], COMPARED: [0.2, 0.4, 0.3]},
}
WHOLE: Methods = {"model": {"reconstruction_mse": [0.3, 0.1, 0.2], "reconstruction_psnr": [5, 10, 7]}}


def shifted(methods: Methods, by: float) -> Methods:
    """Other scores of the model, puzzle by puzzle not all by as much."""
    own = {
        name: [value + by * (1 + 0.1 * n) for n, value in enumerate(found)] for name, found in methods["model"].items()
    }
    return methods | {"model": own}


def both(first: Methods, second: Methods) -> Methods:
    return {method: first.get(method, {}) | second.get(method, {}) for method in dict.fromkeys([*first, *second])}


def shown(board: Leaderboard) -> list[dict[str, str]]:
    """Rows of the table in Markdown by their header."""
    lines = [line[2:-2].split(" | ") for line in markdown(board).splitlines() if line.startswith("| ")]
    header, _, *rows = lines
    assert len(set(header)) == len(header)
    return [dict(zip(header, line, strict=True)) for line in rows]


def test_masked_images_alone_have_their_columns_baselines_and_differences(sweep: Sweep, tmp_path: Path) -> None:
    jobs = [
        sweep.job(
            methods=shifted(MASKED, 0.5), validation=[0.9, 0.7], mode="min", monitor="val/loss", size="1", images=1
        ),
        sweep.job(methods=MASKED, validation=[0.4], mode="min", monitor="val/loss", size="2", images=1),
    ]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["2", "1"]
    best, other, bilinear = shown(board)
    titles = list(best)
    assert titles[titles.index("validation") + 1 : titles.index("parameters")] == [
        "masked PSNR, dB",
        "masked SSIM",
        "masked MSE",
        "masked PSNR - best",
    ]
    assert (best["masked PSNR, dB"], best["masked SSIM"], best["masked MSE"]) == ("16.67", "0.5000", "0.02667")
    assert best["masked PSNR - best"] == "best"
    mean, low, high = paired(np.array([20.5, 17.55, 13.6]), np.array([20.0, 17, 13]))
    assert other["masked PSNR - best"] == f"{mean:+.2f} ±{(high - low) / 2:.2f}".replace("±0", "±") == "+0.55 ±.12"
    assert bilinear["rank"] == "bilinear"
    assert bilinear["masked PSNR, dB"] == "15.33", "± is the deviation over seeds in this column"
    assert bilinear["masked PSNR - best"] == bilinear["parameters"] == ""
    assert "val/loss on validation images" in caption(board)
    write(board, tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(second["masked_psnr_minus_best"]) == pytest.approx(mean)
    assert float(first["masked_mse"]) == pytest.approx(0.08 / 3)
    assert first["masked_psnr_minus_best"] == ""


def test_reconstructions_alone_have_their_columns_and_order(sweep: Sweep) -> None:
    jobs = [
        sweep.job(methods=WHOLE, validation=None, size="1"),
        sweep.job(methods=shifted(WHOLE, 1), validation=None, size="2"),
    ]
    board = leaderboard("name", jobs)
    assert sizes(board) == ["2", "1"]
    assert "reconstruction PSNR" in caption(board)
    assert [row["reconstruction PSNR, dB"] for row in shown(board)] == ["8.43", "7.33"]
    assert [row["reconstruction PSNR - best"][:5] for row in shown(board)] == ["best", "-1.10"]


def test_in_a_mixture_what_a_run_has_not_is_blank_and_each_task_has_a_best_row_of_its_own(sweep: Sweep) -> None:
    jobs = [
        sweep.job(methods=CLUSTERED, validation=[0.9], size="1"),
        sweep.job(methods=both(shifted(CLUSTERED, -0.1), MASKED), validation=[0.8], size="2"),
        sweep.job(methods=both(shifted(CLUSTERED, 0.1), shifted(MASKED, 1)), validation=[0.7], size="3"),
        sweep.job(methods=WHOLE, validation=[0.6], size="4"),
    ]
    board = leaderboard("name", jobs)
    rows = shown(board)
    assert [row["mean clustering score - best"][:7] for row in rows[:4]] == ["best", "-0.1100", "+0.1100", ""]
    assert [row["masked PSNR - best"][:5] for row in rows[:4]] == ["", "best", "+1.10", ""]
    assert [row["masked PSNR, dB"] for row in rows[:4]] == ["", "16.67", "17.77", ""]
    assert [row["KMeans ARI"] for row in rows[:4]] == ["0.2000", "0.0900", "0.3100", ""]
    assert [row["reconstruction MSE"] for row in rows[:4]] == ["", "", "", "0.20000"]
    assert [row["rank"] for row in rows[4:]] == ["random", "bilinear"]
    assert [row["masked SSIM"][:6] for row in rows[4:]] == ["", "0.2667"]
    assert [bool(row["mean clustering score"]) for row in rows[4:]] == [True, False]
    assert [board.leader(name) for name in ("masked_psnr", "fid")] == [board.rows[1], None]


def test_without_validation_clustering_counts_before_what_is_filled_in_before_what_is_decoded(sweep: Sweep) -> None:
    jobs = [
        sweep.job(methods=WHOLE, validation=None, size="1"),
        sweep.job(methods=MASKED, validation=None, size="2"),
        sweep.job(methods=shifted(MASKED, 3), validation=None, size="3"),
        sweep.job(methods=CLUSTERED, validation=None, size="4"),
        sweep.job(methods=both(shifted(CLUSTERED, 0.1), WHOLE), validation=None, size="5"),
    ]
    assert sizes(leaderboard("name", jobs)) == ["5", "4", "3", "2", "1"]


@pytest.mark.parametrize("change", [{"mask_ratio": 0.75}, {"patch": 8}])
def test_where_something_else_was_hidden_what_was_filled_in_is_not_compared_but_all_else_is(
    sweep: Sweep, change: dict[str, Any]
) -> None:
    methods = both(both(CLUSTERED, MASKED), WHOLE)
    jobs = [
        sweep.job(methods=methods, validation=[0.9], size="1"),
        sweep.job(methods=shifted(methods, 1), validation=[0.1], size="2", **change),
    ]
    found = leaderboard("name", jobs).rows[1]
    assert set(found.difference) == {COMPARED, "reconstruction_psnr"}
    assert found.scores["masked_psnr"].mean == pytest.approx(50 / 3 + 1.1)


def test_losses_order_only_models_that_were_trained_by_the_same(sweep: Sweep) -> None:
    def board(*losses: str, monitor: str) -> Leaderboard:
        return leaderboard(
            "name",
            [
                sweep.job(
                    methods=shifted(MASKED, n),
                    validation=[0.1 * n],
                    mode="min",
                    monitor=monitor,
                    size=str(n),
                    loss=loss,
                )
                for n, loss in enumerate(losses, 1)
            ],
        )

    same = board("squares", "squares", "squares", monitor="val/loss")
    assert (sizes(same), same.monitor) == (["1", "2", "3"], "val/loss")
    others = board("squares", "squares", "norms", monitor="val/loss")
    assert (sizes(others), others.monitor) == (["3", "2", "1"], "")
    assert "masked PSNR" in caption(others)
    scores = board("squares", "norms", monitor=MONITOR)
    assert (sizes(scores), scores.monitor) == (["1", "2"], MONITOR)


def test_what_has_one_value_for_all_images_is_a_score_without_interval_or_difference(sweep: Sweep) -> None:
    jobs = [sweep.job(methods=MASKED, size="1"), sweep.job(methods=shifted(MASKED, 1), size="1", seed=1)]
    for job, fid in zip(jobs, (30.0, 40.0), strict=True):
        assert job.run is not None
        job.run.metrics["dataset_wide"] = {"model": {"composite_fid": fid}, "bilinear": {"composite_fid": 99.0}}
    board = leaderboard("name", jobs)
    assert_spread(board.rows[0].scores["composite_fid"], 35, 50**0.5, 2)
    assert board.baselines["bilinear"]["composite_fid"]["mean"] == 99
    assert board.rows[0].difference == {}


# While a sweep runs ---------------------------------------------------------------------------------------------------


def test_a_line_tells_how_far_a_job_is_from_the_best(tmp_path: Path) -> None:
    sweeps.begin(tmp_path, "name", 3, [], ["model.latent_dim", "seed"])
    for size, score in (("8", 0.25), ("16", 0.5)):
        folder = tmp_path / size
        files.write_text(folder / "overrides.yaml", f"- model=pca\n- model.latent_dim={size}\n- seed=0\n")
        status = {"status": "done", "started": "2100-01-01T00:00:00+00:00", "finished": "2100-01-01T00:01:40+00:00"}
        files.write_json(folder / "status.json", status)
        protocol = {"puzzles": 2, "images_per_puzzle": 10, "fragments_per_image": 16}
        facts: Any = {"data": {"name": "x"}, "model": {"name": "m", "parameters": 1}, "seconds": {"training": 1.0}}
        Record(folder).write_metrics({"model": {COMPARED: np.array([score] * 2)}}, protocol=protocol, **facts)
    line = job_line(tmp_path / "8", 2)
    assert line is not None
    assert line.split("  ")[:4] == ["2 of 3", "latent_dim=8 seed=0", "mean clustering score 0.2500", "0:01:40"]
    files.write_csv(tmp_path / "leaderboard.csv", [{"rank": 1, COMPARED: 0.5, "jobs": "16"}])
    assert "-0.2500 from the best" in (job_line(tmp_path / "8", 2) or "").split("  ")
    assert "the best" in (job_line(tmp_path / "16", 2) or "").split("  ")
    files.write_json(tmp_path / "8" / "status.json", status | {"finished": "2000-01-01T00:00:00+00:00"})
    assert job_line(tmp_path / "8", 2) is None, "it was skipped"
    (tmp_path / "16" / "metrics.json").write_text('{"scores": {}}')
    assert (job_line(tmp_path / "16", 2) or "").split("  ")[2] == "0:01:40", "damaged scores are not shown"


def test_a_leaderboard_is_not_written_more_often_than_its_size_allows(tmp_path: Path) -> None:
    sweeps.begin(tmp_path, "name", 20, [], [])
    for number in range(20):
        files.write_json(tmp_path / str(number) / "status.json", {"status": "failed", "error": "bad"})
    path = tmp_path / "leaderboard.csv"
    keep_current(tmp_path)
    assert len(path.read_text().splitlines()) == 2
    for age, is_old in ((1.0, False), (3.0, True)):
        path.write_text("old")
        os.utime(path, (time.time() - age,) * 2)
        keep_current(tmp_path)
        assert (path.read_text() != "old") == is_old


# Files ----------------------------------------------------------------------------------------------------------------

NASTY = "<script>alert('x')</script>|a\nb & `c` *d*"


@pytest.fixture
def nasty(sweep: Sweep) -> Leaderboard:
    jobs = [sweep.job(size="1"), sweep.job(size=NASTY), sweep.failed(NASTY.replace("\n", " "), size="3")]
    return leaderboard(NASTY, jobs)


def test_values_names_and_errors_do_nothing_to_the_markdown(nasty: Leaderboard) -> None:
    lines = markdown(nasty).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + 3 + 1
    bars = {line.replace("\\|", "").count("|") for line in rows}
    assert len(bars) == 1, "all rows have as many cells"
    assert "<script>" not in markdown(nasty)
    assert sum(line.startswith("#") for line in lines) == 1


def test_values_names_and_errors_come_back_from_the_csv_as_they_were(nasty: Leaderboard, tmp_path: Path) -> None:
    write(nasty, tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["model.latent_dim"] for row in found] == ["1", NASTY, "3"]
    assert NASTY.replace("\n", " ") in found[-1]["failures"]


def test_the_shown_table_has_a_cell_for_each_column(sweep: Sweep) -> None:
    jobs = [sweep.job(size="1"), sweep.job(size="2", validation=None), sweep.failed("bad", size="3")]
    rows = shown(leaderboard("name", jobs))
    assert list(rows[0])[:4] == ["rank", "latent_dim", "seeds", "validation"]
    assert list(rows[0].values())[:3] == ["1", "1", "0"]
    assert {title: text for title, text in rows[2].items() if text} == {"latent_dim": "3", "not done": "1"}
    assert {title: text for title, text in rows[3].items() if text} == {
        "rank": "random",
        "mean clustering score": "0.0000",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0.000123456789", "0.0001235"), ("32", "32"), ("-1", "-1"), ("conv", "conv"), ("1000000", "1000000"), ("", "")],
)
def test_swept_values_are_shown_in_short(value: str, expected: str) -> None:
    assert short(value) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0:00:00"), (100.0, "0:01:40"), (36061.0, "10:01:01")])
def test_times_are_shown_in_hours_minutes_and_seconds(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected
