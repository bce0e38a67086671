from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from fragrecon.evaluation.clustering.protocol import METRICS
from fragrecon.evaluation.clustering.robustness import Condition, Outcome
from fragrecon.evaluation.statistics import Scores
from fragrecon.evaluation.statistics import summary as summarised
from fragrecon.report.leaderboard import Failure, Leaderboard, Row, Spread
from fragrecon.report.metrics import CLUSTERING, PAIRS, REASSEMBLY, ROBUST, label, name
from fragrecon.report.terminal import (
    MOST_ROWS,
    TABLES,
    print_leaderboard,
    print_metrics,
    print_robustness,
    print_time,
)

METHODS = ("random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca", "model")


def summary(mean: float, half: float | None = 0.0123) -> dict[str, Any]:
    interval = None if half is None else [mean - half, mean + half]
    return {"mean": mean, "std": half, "ci95": interval, "n": 5 if half is not None else 1}


def written(half: float | None = 0.0123) -> dict[str, Any]:
    """A ``metrics.json`` in which each figure tells method and metric: method in the first digit, metric after it."""
    scores = {
        method: {metric: summary(number / 10 + place / 1000, half) for place, metric in enumerate(METRICS, 1)}
        for number, method in enumerate(METHODS, 1)
    }
    differences = {
        method: {metric: summary(-number / 10 - place / 1000, half) for place, metric in enumerate(METRICS, 1)}
        for number, method in enumerate(METHODS[:-1], 1)
    }
    return {
        "protocol": {"puzzles": 1000, "images_per_puzzle": 10},
        "scores": scores,
        "model_minus": differences,
        "model": {"name": "SupervisedClassifier"},
        "data": {"name": "imagenet64"},
        "seconds": {"data": 1.25, "training": 3723.5, "evaluation": 12.0},
    }


def printed(show: Callable[..., None], *given: Any, width: int = 80) -> list[str]:
    """The lines that a function prints."""
    file = io.StringIO()
    show(*given, Console(file=file, width=width))
    return file.getvalue().splitlines()


def shown(metrics: dict[str, Any], folder: str = "outputs/run") -> list[str]:
    return printed(print_metrics, metrics, Path(folder))


def rows_of(lines: Sequence[str], name: str) -> list[list[tuple[str, str]]]:
    """Figures and their intervals in the rows of that name."""
    rows = (line for line in lines if line.startswith(f"{name} "))
    return [re.findall(r"([+-]?\d\.\d{4}) ±(\.\d{4})", row) for row in rows]


def test_each_method_has_a_row_with_every_metrics_figure_and_one_of_the_differences() -> None:
    lines = shown(written())
    places = [METRICS.index(metric) + 1 for metric in TABLES[0]]
    for number, method in enumerate(METHODS, 1):
        own = [(f"{number / 10 + place / 1000:.4f}", ".0123") for place in places]
        less = [(f"-{number / 10 + place / 1000:.4f}", ".0123") for place in places]
        both = method not in ("random", "model")
        found = rows_of(lines, label(method))
        assert found[:1] == [own]
        if method == "model":
            assert found[1:] == [[]]  # the head of the differences
        else:
            assert found[1:] == ([less] if both else [])
    head = next(i for i, line in enumerate(lines) if line.startswith("model minus"))
    assert [line.startswith(label(METHODS[1])) for line in lines[head : head + 2]] == [False, True]


def heads(lines: Sequence[str]) -> str:
    """The words above the first rule."""
    rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
    return " ".join(" ".join(line.split()) for line in lines[:rule])


def test_each_column_is_headed_by_its_metric() -> None:
    assert TABLES[0] == ("kmeans_ari", "kmeans_nmi", "kmeans_purity", "mean_clustering_score")
    assert heads(shown(written())).endswith("mean KMeans KMeans KMeans clustering ARI NMI purity score")


def assert_fits(lines: Sequence[str], width: int = 80) -> None:
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    assert not any("…" in line for line in lines)


def test_the_table_tells_what_was_scored_on_what_and_in_what_time() -> None:
    metrics = written()
    metrics["model_minus"]["raw_pixels"]["kmeans_ari"] = summary(0.0625)
    text = "\n".join(shown(metrics))
    for part in ("SupervisedClassifier", "1000 test puzzles of 10 imagenet64 images", "+0.0625"):
        assert part in text
    (time,) = printed(print_time, metrics["seconds"])
    assert "data 1.2 s, training 3723.5 s, evaluation 12.0 s" in time


def test_a_single_puzzle_has_no_interval() -> None:
    text = "\n".join(shown(written(half=None)))
    assert "0.6010" in text
    assert "±" not in text.replace("mean ± half", "")


def test_the_folder_is_never_broken_so_that_it_can_be_copied() -> None:
    for folder in ("/runs/run", "/runs/" + "x" * 300):
        assert f"record: {folder}" in shown(written(), folder)


# Reassembly -----------------------------------------------------------------------------------------------------------


def rebuilt(half: float | None = 0.0123, pairs: bool = True) -> dict[str, Any]:
    """A ``metrics.json`` of a model that reassembles puzzles, and of a baseline."""
    metrics = written(half)
    for number, method in enumerate(("model", "seam_gradients"), 1):
        own = {name: summary(number / 10 + place / 1000, half) for place, name in enumerate(REASSEMBLY, 1)}
        metrics["scores"].setdefault(method, {}).update(own)
    metrics["model_minus"]["seam_gradients"] = {name: summary(0.05, half) for name in REASSEMBLY}
    if pairs:
        own = {name: summary(0.3 + place / 1000, half) for place, name in enumerate(PAIRS, 1)}
        metrics["scores"]["model"].update(own)
    return metrics


def reassembly_part(lines: Sequence[str]) -> list[str]:
    start = next(i for i, line in enumerate(lines) if line.strip() == "reassembly")
    return list(lines[start:])


def test_the_table_of_reassembly_has_a_row_of_each_method_that_was_scored_so() -> None:
    lines = shown(rebuilt())
    part = reassembly_part(lines)
    for number, method in enumerate(("model", "seam gradients"), 1):
        (line,) = (line for line in part if line.startswith(f"{method} "))
        expected = [f"{number / 10 + place / 1000:.3f} ±.012" for place in range(1, len(REASSEMBLY) + 1)]
        assert cells_of(line, method) == expected
    assert not any(line.startswith(label(method)) for line in part for method in METHODS[:-1])
    # Above, nothing but the rows of the main table; methods without its scores have none.
    assert not any("seam gradients" in line for line in lines[: len(lines) - len(part)])
    assert [line for line in lines if line.startswith("raw pixels")] == [
        line for line in shown(written()) if line.startswith("raw pixels")
    ]


def test_each_column_of_reassembly_is_headed_by_its_score() -> None:
    words = heads(reassembly_part(shown(rebuilt()))).split()
    assert {word for metric in REASSEMBLY for word in name(metric).split()} <= set(words)


def test_scores_of_pairs_are_one_line_with_their_intervals() -> None:
    (line,) = (line for line in shown(rebuilt()) if line.startswith("pairs of fragments: "))
    expected = [f"{name(metric)} {0.3 + place / 1000:.4f} ±.0123" for place, metric in enumerate(PAIRS, 1)]
    assert line == f"pairs of fragments: {'; '.join(expected)}"


def test_a_model_that_only_embeds_has_neither_table_nor_line() -> None:
    text = "\n".join(shown(written()))
    assert "reassembly" not in text
    assert "pairs of fragments" not in text
    assert not any(line.startswith("pairs of fragments") for line in shown(rebuilt(pairs=False)))
    metrics = rebuilt()
    del metrics["scores"]["model"]["reassembly_perfect"]
    assert not any("reassembly" in line for line in shown(metrics))


# Perceptual metrics ---------------------------------------------------------------------------------------------------


def seen(half: float | None = 0.0123, prefix: str = "composite") -> dict[str, Any]:
    """A ``metrics.json`` with metrics that pretrained networks compute."""
    metrics = written(half)
    wide = (f"{prefix}_fid", f"{prefix}_frechet_feature_distance")
    near = (f"{prefix}_lpips", f"{prefix}_feature_distance")
    for number, method in enumerate(("model", "linear_prediction"), 1):
        own = {name: summary(number / 10 + place / 1000, half) for place, name in enumerate(near, 1)}
        metrics["scores"].setdefault(method, {}).update(own)
    metrics["model_minus"]["linear_prediction"] = {name: summary(-0.1, half) for name in near}
    metrics["dataset_wide"] = {
        "linear_prediction": {name: 200.25 + place for place, name in enumerate(wide)},
        "model": {name: 100.125 + place for place, name in enumerate(wide)},
    }
    return metrics


def perceptual_part(lines: Sequence[str]) -> list[str]:
    start = max(i for i, line in enumerate(lines) if line.strip().startswith("SupervisedClassifier on"))
    return list(lines[start:])


@pytest.mark.parametrize("prefix", ["composite", "reconstruction"])
def test_distances_of_images_have_intervals_and_those_of_all_images_have_none(prefix: str) -> None:
    part = perceptual_part(shown(seen(prefix=prefix)))
    (model,) = (line.split() for line in part if re.match(r"model +\d", line))
    first, second = (line.split()[2:] for line in part if line.startswith("linear prediction"))
    assert model[1:] == ["0.1010", "±.0123", "0.1020", "±.0123", "100.12", "101.1250"]
    assert first == ["0.2010", "±.0123", "0.2020", "±.0123", "200.25", "201.2500"]
    assert second == ["-0.1000", "±.0123", "-0.1000", "±.0123", "-100.12", "-100.1250"]
    for word in ("LPIPS", "FID", "Fréchet"):
        assert heads(part).count(word) == 1
    assert ("composite" in heads(part)) == (prefix == "composite")


@pytest.mark.parametrize("half", [0.0123, None, 0.9999, 1.5])
def test_tables_fit_a_terminal_of_80_columns(half: float | None) -> None:
    metrics, reassembled = written(half), rebuilt(half, pairs=False)
    metrics["model_minus"]["whitened_pca"]["kmeans_ari"] = summary(-1.0, half)
    reassembled["scores"]["seam_gradients"]["placing_direct"] = summary(1.0, half)
    for found in (metrics, reassembled, *([seen(half)] if half != 1.5 else [])):
        assert_fits(shown(found))


def test_a_table_of_one_column_does_not_break_its_title() -> None:
    metrics = seen()
    del metrics["dataset_wide"]
    for method in ("model", "linear_prediction"):
        del metrics["scores"][method]["composite_lpips"]
    del metrics["model_minus"]["linear_prediction"]["composite_lpips"]
    title = "SupervisedClassifier on 1000 test puzzles of 10 imagenet64 images"
    lines = shown(metrics)
    assert [line.strip() for line in lines].count(title) == 2
    assert_fits(lines)


def test_what_is_printed_changes_nothing_in_the_metrics() -> None:
    metrics = seen()
    shown(metrics)
    assert metrics == seen()


# Harder conditions ----------------------------------------------------------------------------------------------------


def scored(number: int, puzzles: int = 5, methods: Sequence[str] = METHODS) -> dict[str, dict[str, Scores]]:
    random = np.random.default_rng(number)
    found = {method: {metric: random.random(puzzles) for metric in ("kmeans_ari", *ROBUST)} for method in methods}
    for rows in found.values():
        rows["unknown_k_error"] = random.integers(0, 40, puzzles).astype(np.float64)
    return found


def conditions(puzzles: int = 5) -> list[Outcome]:
    return [
        Outcome(Condition("images", 2), scored(1, puzzles), {}),
        Outcome(Condition("images", 100), {}, {"all": "there are not so many images"}),
        Outcome(Condition("fragment_size", 32), scored(2, puzzles, METHODS[:-1]), {"model": "it takes others"}),
        Outcome(Condition("noise", 0.02), scored(3, puzzles), {}),
    ]


def cells_of(line: str, name: str) -> list[str]:
    """The cells of a row without its name; an interval stays beside its mean."""
    return re.findall(r"n/a|[\d.]+(?: ±[\d.]+)?", line.removeprefix(name))


def cell(scores: Scores, digits: int = 4) -> str:
    low, high = summarised(scores)["ci95"]
    return f"{scores.mean():.{digits}f} ±" + f"{(high - low) / 2:.{digits}f}".removeprefix("0")


def test_each_condition_has_a_row_of_all_methods_and_one_of_the_model() -> None:
    lines, outcomes = printed(print_robustness, conditions()), conditions()
    for outcome in outcomes:
        name = str(outcome.condition)
        first, second = (cells_of(line, name) for line in lines if line.startswith(f"{name} "))
        model = outcome.scores.get("model")
        others = [outcome.scores.get(method) for method in METHODS[1:-1]]
        means = ["n/a" if other is None else f"{other['kmeans_ari'].mean():.4f}" for other in others]
        assert first == [cell(model["kmeans_ari"]) if model else "n/a", *means]
        digits = {metric: 2 if metric == "unknown_k_error" else 4 for metric in ROBUST}
        assert second == [cell(model[metric], digits[metric]) if model else "n/a" for metric in ROBUST]


def test_the_tables_of_conditions_fit_a_terminal_of_80_columns() -> None:
    for puzzles in (1, 5):
        lines = printed(print_robustness, conditions(puzzles))
        assert_fits([line for line in lines if not line.startswith("n/a: ")])
    text = " ".join(word for line in printed(print_robustness, conditions()) for word in line.split())
    for method in METHODS[1:-1]:
        for word in label(method).split():
            assert word in text


def test_conditions_on_a_single_puzzle_have_no_interval() -> None:
    lines = printed(print_robustness, conditions(1))
    assert not any("±" in line for line in lines if not line.strip().startswith("mean ±"))
    mean = f"{conditions(1)[0].scores['model']['kmeans_ari'].item():.4f}"
    assert any(line.startswith("images=2 ") and mean in line for line in lines)


def test_what_cannot_be_scored_is_printed_with_its_reason_in_one_line() -> None:
    lines = printed(
        print_robustness, [Outcome(Condition("images", 100), {}, {"all": "so " * 60 + "it is"}), *conditions()[1:]]
    )
    assert "n/a: images=100, all: " + "so " * 60 + "it is" in lines
    assert "n/a: fragment_size=32, model: it takes others" in lines


def test_axes_are_set_apart() -> None:
    lines = printed(print_robustness, conditions())
    names = [line.partition(" ")[0].partition("=")[0] for line in lines if "=" in line or not line.strip()]
    assert names[:6] == ["images", "images", "", "fragment_size", "", "noise"]


# Sweeps ---------------------------------------------------------------------------------------------------------------


def row(rank: int, values: dict[str, str], score: float | None, *, seeds: int = 3, failed: str = "") -> Row:
    if score is None:
        return Row(values, failures=[Failure(f"job-{rank}", failed)])
    spreads = {
        name: Spread(score + place / 100, 0.0123, seeds)
        for place, name in enumerate(("kmeans_ari", CLUSTERING.compared))
    }
    difference = {CLUSTERING.compared: summary(-0.0321)} if rank > 1 else {}
    return Row(
        values, ["a"] * seeds, list(range(seeds)), Spread(score / 2, 0.01, seeds), spreads, difference, 1234, 61.0
    )


def board(rows: list[Row], parameters: list[str]) -> Leaderboard:
    return Leaderboard("latent", parameters, rows, "val_mean_clustering_score", {})


def shown_board(found: Leaderboard) -> list[str]:
    return printed(print_leaderboard, found, Path("multirun/latent"))


def test_a_leaderboard_of_two_parameters_fits_a_terminal_of_80_columns() -> None:
    values = [{"model": model, "model.latent_dim": size} for model in ("supervised", "conv") for size in ("1024", "32")]
    lines = shown_board(board([row(i, found, 0.9 - i / 10) for i, found in enumerate(values, 1)], list(values[0])))
    assert_fits(lines)
    found = [line for line in lines if re.match(r"\d ", line)]
    assert [line.split()[:5] for line in found] == [
        [str(i), *value.values(), "3", f"{(0.9 - i / 10) / 2:.4f}"] for i, value in enumerate(values, 1)
    ]
    assert all("0.0123" in line or ".0123" in line for line in found)
    assert [line.count("-0.0321") for line in found] == [0, 1, 1, 1]
    assert "page: multirun/latent/report.html" in lines
    assert "ordered by val_mean_clustering_score on validation puzzles" in " ".join(" ".join(lines).split())


def test_the_baselines_of_a_sweep_are_printed() -> None:
    baselines = {
        name: {"kmeans_ari": summary(0.15), CLUSTERING.compared: summary(0.25)} for name in ("raw_pixels", "exact_pca")
    }
    baselines["unscored"] = {}
    found = replace(board([row(1, {}, 0.5)], []), baselines=baselines)
    text = " ".join(" ".join(shown_board(found)).split())
    told = "baselines, KMeans ARI / mean clustering score: raw pixels 0.1500 / 0.2500, exact PCA 0.1500 / 0.2500"
    assert told in text
    assert "unscored" not in text


def test_long_values_are_folded_so_that_no_figure_is_cut() -> None:
    run = "multirun/latent/model-conv_model.latent_dim-128_seed-0_data.batches_per_epoch-4_data.epochs-1"
    found = {"run": run, "model.encoder_channels": "[32,64,128,256]", "optimizer.weight_decay": "0.000123456"}
    lines = shown_board(board([row(1, found, 0.5), row(2, found, 0.25)], list(found)))
    assert_fits(lines)
    text = "\n".join(lines)
    for figures in ("0.2500 0.5000 0.5100 ±.0123", "0.1250 0.2500 0.2600 ±.0123", "-0.0321 ±.0123"):
        assert figures in text
    head = next(number for number, line in enumerate(lines) if "0.5100" in line)
    assert run.startswith(lines[head][1:].split()[0])


def test_failures_are_printed_with_their_reason_in_one_line() -> None:
    why = "model.latent_dim=-1 should be at least 1" * 4
    rows = [row(1, {"model.latent_dim": "8"}, 0.5), row(2, {"model.latent_dim": "-1"}, None, failed=why)]
    lines = shown_board(board(rows, ["model.latent_dim"]))
    assert f"job-2 failed: {why}" in lines
    assert any(line.split()[:2] == ["-", "-1"] for line in lines)


def test_of_a_long_leaderboard_the_best_are_shown() -> None:
    rows = [row(i, {"optimizer.lr": f"{i / 7e4}"}, 0.9) for i in range(1, 51)]
    lines = shown_board(board(rows, ["optimizer.lr"]))
    assert sum(bool(re.match(r" ?\d+ ", line)) for line in lines) == MOST_ROWS
    assert f"and {50 - MOST_ROWS} more" in lines
    assert any(line.split()[:2] == ["1", "1.429e-05"] for line in lines)


def test_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    why = "[/third/party/pair.cc:537] [bold]reset[/] by [red]peer"
    rows = [row(1, {"model.channels": "[a,b]"}, 0.5), row(2, {"model.channels": "[/]"}, None, failed=why)]
    print_leaderboard(board(rows, ["model.channels"]), Path("multirun/[red]"))
    print_metrics(written(), Path("outputs/[red]"))
    text = capsys.readouterr().out
    for words in (
        "[a,b]",
        "[/]",
        f"job-2 failed: {why}",
        "page: multirun/[red]/report.html",
        "record: outputs/[red]",
    ):
        assert words in text


def test_an_empty_leaderboard_says_so() -> None:
    assert any("latent: 0 configurations" in line for line in shown_board(board([], [])))
