"""The pages say what the results say."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import cnn_v3
import colours
import count
import crops
import decoded
import jigsaw
import jigsaw_edges
import leak
import pytest
import tables
from PIL import Image
from sklearn.datasets import load_sample_images

from fragrecon import files
from fragrecon.report import metrics
from fragrecon.report.metrics import CLUSTERING
from tests import cli, layouts

ROOT = cli.ROOT
BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((ROOT / "experiments" / "results").rglob("*.json"))
ELSEWHERE = [path for path in RESULTS if path.parent.name == "photographs"]
MASKED = [path for path in RESULTS if path.parent.name == "masked"]
EMBEDDED = [path for path in RESULTS if path.parent.name.startswith("embed")]
LARGER = [path for path in RESULTS if path.parent.name == "cnn_v3"]
TIMED = [path for path in RESULTS if path.parent.name == "bench"]
JIGSAW = [path for path in RESULTS if path.parent.name == "jigsaw"]
GROUNDS = [path for path in RESULTS if path.parent.name in tables.GROUNDS]
LEAKING = [path for path in RESULTS if "leak" in path.parts]
FEW = ["data.reader.train_images=300", "evaluation.validation_puzzles=2", "evaluation.restarts=1"]
COLUMNS = CLUSTERING.shown
BASELINES = ["random", "raw_pixels", "colour_histogram", "exact_pca", "whitened_pca"]


def test_the_tables_of_all_pages_match_the_results() -> None:
    assert tables.main(["--check"]) == 0, "run: make tables"


def test_a_check_of_the_tables_fails_on_an_edited_page_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, edited = tmp_path / "whole.md", tmp_path / "edited.md"
    right = tables.filled("<!-- bench: clustering -->\n<!-- end of table -->\n")
    wrong = right.replace("ratio", "RATIO")
    whole.write_text(right)
    edited.write_text(wrong)
    monkeypatch.setattr(tables, "PAGES", [whole, edited])
    assert tables.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert str(edited) in printed
    assert str(whole) not in printed
    assert edited.read_text() == wrong
    assert tables.main([]) == 0
    assert edited.read_text() == whole.read_text() == right
    assert tables.main(["--check"]) == 0


def test_the_readme_has_one_table_of_a_few_results() -> None:
    ((_, names),) = re.findall(r"<!-- (\w+): ([^>]+) -->", (ROOT / "README.md").read_text())
    assert len(names.split()) <= 7


def test_results_were_scored_by_the_whole_protocol() -> None:
    filling = ["mean_colour", "bilinear", "linear_prediction"]
    special = {"Mosaic": ["seam_gradients"], "MaskedAutoencoder": filling, "EnergyTransformer": filling}
    other = [*ELSEWHERE, *MASKED, *EMBEDDED, *LARGER, *TIMED, *LEAKING, *JIGSAW]
    found = [path for path in RESULTS if path not in other]
    assert set(GROUNDS) < set(found)
    for path in found:
        result = json.loads(path.read_text())
        assert result["protocol"]["puzzles"] == (300 if path in GROUNDS else 1000), path
        assert result["protocol"]["images_per_puzzle"] == 10, path
        assert list(result["scores"]) == [*BASELINES, "model", *special.get(result["model"]["name"], [])], path
        assert result["protocol"]["backend"] == ("sklearn" if path.parent.name == "sklearn" else "batched"), path
        random, pixels = result["scores"]["random"], result["scores"]["raw_pixels"]
        assert abs(random["kmeans_ari"]["mean"]) < 0.002, path
        most = 0.2 if path.parent.name == "clean" else 0.160
        assert 0.145 < pixels["kmeans_ari"]["mean"] < most, path


def test_inpainting_is_better_than_by_mean_colour_and_interpolation() -> None:
    assert MASKED
    for path in MASKED:
        result = json.loads(path.read_text())
        assert list(result["scores"]) == ["mean_colour", "bilinear", "linear_prediction", "model"], path
        assert result["protocol"]["mask_ratio"] == 0.85, path
        assert result["protocol"]["fragments_per_image"] == result["protocol"]["images_per_puzzle"] == 1, path
        for baseline in ("mean_colour", "bilinear"):
            for metric in ("masked_psnr", "masked_ssim"):
                found = result["model_minus"][baseline][metric]
                assert found["ci95"][0] > 0, (path, baseline, metric)
                assert found["n"] == result["protocol"]["puzzles"] == (10_000 if "cifar" in path.stem else 1000), path


def test_probes_were_scored_on_all_test_images_beside_raw_pixels_and_components() -> None:
    assert EMBEDDED
    for path in EMBEDDED:
        result = json.loads(path.read_text())
        assert {"model", "raw_pixels", "exact_pca"} <= set(result["scores"]), path
        protocol = result["protocol"]
        assert protocol["probe_test_images"] == protocol["puzzles"] == 10_000, path
        assert protocol["probe_training_images"] + protocol["probe_validation_images"] == 50_000, path
        assert set(tables.PROBES) <= set(result["scores"]["model"]), path
        beside = json.loads((path.parent / "conv_256.json").read_text())
        assert result["scores"]["raw_pixels"] == beside["scores"]["raw_pixels"], path


def test_larger_images_are_decoded_better_than_downsampled_ones_of_as_many_dimensions() -> None:
    assert LARGER
    for path in LARGER:
        result = json.loads(path.read_text())
        network, _, size = path.stem.rpartition("_")
        assert result["data"]["image_shape"] == [1, *cnn_v3.SIZES[size]], path
        assert result["protocol"]["puzzles"] == int(cnn_v3.CROPS[size][-1]), path
        minus = result["model_minus"]["downsampled"]
        if network == "large":  # its latents have more dimensions than its cells hold
            assert minus["reconstruction_psnr"]["ci95"][1] < 0, path
        else:
            assert minus["reconstruction_psnr"]["mean"] > 0, path
            assert minus["reconstruction_mse"]["ci95"][1] < 0, path


def test_every_training_and_timing_of_larger_images_is_recorded() -> None:
    assert {path.stem for path in LARGER} == set(cnn_v3.TRAINED)
    for network in cnn_v3.NETWORKS:
        assert f"{network}_201.cpu" in {path.stem for path in TIMED}
    for preset in cnn_v3.PRESETS:
        for size in cnn_v3.SIZES:
            assert {f"{preset}_{size}.cpu", f"{preset}_{size}_float32.cpu"} <= {path.stem for path in TIMED}


def test_jigsaw_puzzles_were_scored_on_the_whole_sets_and_are_better_than_published() -> None:
    assert JIGSAW
    for path in JIGSAW:
        result = json.loads(path.read_text())
        if path.stem == "edges":
            assert result["puzzles"] == 40
            for found in result["conditions"].values():
                assert found["rank_one"]["learned"] > found["rank_one"]["gradients"]
            continue
        if "rank_one" in result:
            shares = result["rank_one"]
            assert max(shares, key=lambda name: shares[name]) == "combined", path
            continue
        bags = jigsaw.BAGS.get(path.stem, jigsaw.FEWER_BAGS)
        count = {"bags": bags, "eroded": 40}.get(path.stem.partition("_")[0], 20)
        assert result["puzzles"] == len(result["rows"]) == count, path
        scores = result["scores"]["strict"]
        for name, *figures in jigsaw.PUBLISHED.get(path.stem, []):
            if "not verified" not in name:
                direct, neighbours, perfect = map(float, figures)
                assert 100 * scores["direct"] > direct, (path, name)
                assert 100 * scores["neighbours"] > neighbours, (path, name)
                assert result["perfect_puzzles"] >= perfect, (path, name)
        assert all(result["scores"]["alike"][name] >= scores[name] - 1e-9 for name in ("direct", "neighbours")), path


def test_the_script_of_jigsaw_puzzles_writes_results_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, image in zip(("mit", "mcgill"), load_sample_images().images, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(image[:170, 200:420]).save(tmp_path / name / "01.png")
    monkeypatch.setattr(jigsaw, "RESULTS", tmp_path / "results" / "jigsaw")
    monkeypatch.setattr(jigsaw, "FEWER_BAGS", 1)
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    jigsaw.main([str(tmp_path), "mit_known", "bags_2_rotated", "mcgill_unsized", "sides_mit"])
    assert "bags_2_rotated mcgill/01 mit/01" in (printed := capsys.readouterr().out) or "mit/01 mcgill/01" in printed
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results" / "jigsaw").iterdir()}
    assert {name: result["rows"][0]["pieces"] for name, result in found.items() if "rows" in result} == {
        "mit_known": 42,
        "bags_2_rotated": 84,
        "mcgill_unsized": 42,
    }
    assert found["sides_mit"]["sides"] == 2 * (6 * 6 + 5 * 7)
    assert [row[0] for row in tables.jigsaw(["jigsaw/mit_known"])[1:]] == ["MIT, known"] * 7
    assert tables.bags(["jigsaw/bags_2_rotated"])[1][:2] == ["bags of 2, rotated", "1"]
    assert len(tables.sides(["jigsaw/sides_mit"])) == 7


@pytest.mark.slow
def test_learned_edges_are_measured_beside_classical_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, image in zip(("mit", "mcgill"), load_sample_images().images, strict=True):
        (tmp_path / name).mkdir()
        Image.fromarray(image).resize((500, 500)).save(tmp_path / name / "01.png")
    (tmp_path / "bsds").mkdir()
    for name, image in zip(("1", "2"), load_sample_images().images, strict=True):
        Image.fromarray(image[::-1, :200]).save(tmp_path / "bsds" / f"{name}.png")
    monkeypatch.setattr(jigsaw, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(jigsaw_edges, "CONDITIONS", {"eroded_2": (2, 0.0)})
    monkeypatch.setattr(jigsaw_edges, "STEPS", 30)
    jigsaw_edges.main(tmp_path)
    _, *rows = tables.edges(["edges"])
    assert [row[:2] for row in rows] == [["eroded, 2", name] for name in ("gradients", "classical", "learned")]
    assert all(float(row[2]) > 0.1 for row in rows)  # one of 99 by chance


def run(script: Path, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a script in this process."""
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
def test_the_script_of_larger_images_trains_times_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*overrides: str) -> None:
        *given, folder = overrides
        cli.job(Path(folder.removeprefix("hydra.run.dir=")), tmp_path / "cache", *given)

    small = ["model.block_config=[resnet]", "model.channel_config=[8]", "model.stride_config=[4]"]
    for name, value in {
        "RUNS": tmp_path / "runs",
        "RESULTS": tmp_path / "results",
        "SIZES": {"201": (24, 24)},
        "CROPS": {"201": ["--train", "60", "--test", "4"]},
        "NETWORKS": {"tiny": ["model=cnn_v3_tiny", *small]},
        "TRAINED": {"tiny_201": ["data.epochs=1", "evaluation.puzzles=4", "evaluation.validation_puzzles=4"]},
        "BATCHES": {"201": {"tiny": 2}},
        "call": call,
    }.items():
        monkeypatch.setattr(cnn_v3, name, value)
    monkeypatch.setattr("fragrecon.jobs.bench.in_new_process", lambda measure, *arguments: measure(*arguments))
    for _ in range(2):
        cnn_v3.train(tmp_path / "crops")
        cnn_v3.bench()
        found = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
        monkeypatch.setattr(cnn_v3, "call", pytest.fail)
    assert found
    result = json.loads((tmp_path / "results" / "tiny_201.json").read_text())
    assert result["data"]["image_shape"] == [1, 24, 24]
    assert (tmp_path / "results" / "tiny_201.csv").read_text().startswith("epoch,")
    timed = {path.name: json.loads(path.read_text()) for path in (tmp_path / "results" / "bench").iterdir()}
    assert {name: [row["batch_size"] for row in timing["rows"]] for name, timing in timed.items()} == {
        "tiny_201.cpu.json": [1, 2],
        "tiny_201_float32.cpu.json": [2],
    }
    assert timed["tiny_201_float32.cpu.json"]["settings"]["precision"] == "32-true"

    for name, shown in {"NETWORKS": ("tiny",), "SHOWN": {"201": (1, 2)}, "HERE": tmp_path}.items():
        monkeypatch.setattr(decoded, name, shown)
    monkeypatch.setattr(sys, "argv", ["decoded.py", str(tmp_path / "crops")])
    decoded.main()
    with Image.open(tmp_path / "figures" / "cnn_v3_201.png") as figure:
        assert figure.height > 0.7 * figure.width


def test_both_back_ends_give_the_same_figures_within_their_intervals() -> None:
    for name in ("pca", "linear", "conv", "case_study", "supervised"):
        engine, libraries = (
            json.loads((ROOT / "experiments" / "results" / folder / f"{name}.json").read_text())
            for folder in ("baselines", "sklearn")
        )
        for key in ("test", "checkpoint"):
            assert engine["data"].get(key) == libraries["data"].get(key), name
            assert engine["model"].get(key) == libraries["model"].get(key), name
        compared = 0
        for method, scores in engine["scores"].items():
            for metric, found in scores.items():
                low, high = found["ci95"]
                assert low <= libraries["scores"][method][metric]["mean"] <= high, (name, method, metric)
                compared += 1
        assert compared >= 6 * 17, name


def test_the_figures_of_the_puzzle_models_stand_where_the_pages_say() -> None:
    for name, metric, least in (
        ("clean/simclr", "kmeans_ari", 0.62),
        ("clean/siamese", "spectral_ari", 0.49),
        ("clean/mosaic_any", "kmeans_ari", 0.97),
        ("clean/mosaic_any", "adjacency_auroc", 0.948),
        ("clean/mosaic_any", "reassembly_perfect", 0.85),
        ("compressed/mosaic_any", "kmeans_ari", 0.95),
    ):
        found = json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text())
        assert found["scores"]["model"][metric]["ci95"][0] > least, (name, metric)


def test_the_recorded_benchmark_reached_its_ratios() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "clustering.json").read_text())
    assert result["points"][1:] == [160, 128]
    ratios = {name: row["ratio"] for name, row in result["rows"].items()}
    assert ratios["KMeans, 10 restarts"] >= 4
    assert ratios["agreement: ARI, NMI, purity"] >= 100
    assert ratios["whole scoring by the protocol"] >= 5
    assert result["quality"]["inertia_ratio"] == pytest.approx(1, abs=1e-3)
    assert result["quality"]["loss_ratio"] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_the_benchmark_runs_and_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--out", tmp_path, f"data.cache_dir={tmp_path}", "data.reader.train_images=400"]
    run(BENCHMARKS / "clustering.py", monkeypatch, "--puzzles", 12, "--rounds", 1, *where)
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "clustering.json").read_text())
    assert result["points"] == [12, 160, 128]
    for name, row in result["rows"].items():
        assert row["ratio"] == pytest.approx(row["loop_ms"] / row["engine_ms"])
        assert f"{row['ratio']:.1f}" in printed, name
    floor, engine = result["floor_of_kmeans"], result["rows"]["KMeans, 10 restarts"]["engine_ms"]
    assert floor["ms"] == pytest.approx(floor["mflop"] / floor["gflop_per_second"])
    assert floor["share"] == pytest.approx(floor["ms"] / engine)
    assert result["quality"]["inertia_ratio"] == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_the_benchmark_of_training_times_steps_and_a_cold_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["model.width=32", "model.depth=1", "model.heads=2", "evaluation.validation_puzzles=3"]
    data = ["data=synthetic", f"data.cache_dir={tmp_path}", "data.reader.train_images=400", "data.batches_per_epoch=2"]
    run(BENCHMARKS / "training.py", monkeypatch, "--steps", 2, "--out", tmp_path, *small, *data)
    result = json.loads((tmp_path / "training.json").read_text())
    step, sprint = result["step"], result["sprint"]
    assert step["puzzles_a_second"] == pytest.approx(8 / step["seconds_a_step"])
    assert step["gflop_a_step"] / step["seconds_a_step"] / step["peak_gflop_a_second"] == pytest.approx(
        step["share_of_peak"]
    )
    assert sprint["steps"] == 2
    assert sprint["seconds"] > 1
    assert -1 <= sprint["val_kmeans_ari"] <= 1
    assert f"{step['puzzles_a_second']:.1f} puzzles/s" in capsys.readouterr().out
    assert str(tmp_path) not in result["command"]


def test_of_a_named_experiment_steps_alone_are_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.cifar10(tmp_path / "data", 200, 6)
    data = [f"data.root={tmp_path / 'data'}", f"data.cache_dir={tmp_path}", "data.puzzles_per_batch=4"]
    line = ["--steps", 1, "--out", tmp_path, "experiment=mae_cifar10", *data]
    run(BENCHMARKS / "training.py", monkeypatch, *line)
    result = json.loads((tmp_path / "mae_cifar10.json").read_text())
    assert result["step"]["puzzles_a_second"] == pytest.approx(4 / result["step"]["seconds_a_step"])
    assert result["step"]["model"] == "MaskedAutoencoder"
    assert "sprint" not in result


def summary(mean: float) -> dict[str, object]:
    return {"mean": mean, "std": 0.1, "ci95": [mean - 0.01, mean + 0.01], "n": 1000}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the tables are made from."""
    folder = tmp_path / "results"
    folder.mkdir()
    monkeypatch.setattr(tables, "RESULTS", folder)
    return folder


@pytest.mark.parametrize("kind", ["scores", "probes"])
def test_results_of_different_puzzles_or_images_are_not_put_into_one_table(results: Path, kind: str) -> None:
    columns = (*metrics.CLUSTERING.shown, *tables.PROBES)
    for name, mean in (("one", 0.15), ("two", 0.16)):
        scores = dict.fromkeys(columns, summary(mean))
        found = {"raw_pixels": scores, "exact_pca": scores, "model": scores}
        result = {
            "scores": found,
            "model": {"parameters": 1234, "latent_dim": 8},
            "model_minus": {"raw_pixels": scores},
        }
        (results / f"{name}.json").write_text(json.dumps(result))
        (results / f"{name}.csv").write_text("epoch,validation_accuracy\n0,0.4\n")
    assert tables.filled(f"<!-- {kind}: one -->\n<!-- end of table -->\n").count("`one`") == 1
    with pytest.raises(ValueError, match="differs"):
        tables.filled(f"<!-- {kind}: one two -->\n<!-- end of table -->\n")


def test_the_spectrum_script_prints_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(ROOT / "experiments" / "spectrum.py", monkeypatch, *FEW, f"data.cache_dir={tmp_path}")
    leading, cut = (
        [[float(cell) for cell in row.split("|")[1:3]] for row in part.splitlines() if re.match(r"\| \d", row)]
        for part in capsys.readouterr().out.split("KMeans ARI")
    )
    assert [number for number, _ in leading] == [1, 2, 3]
    assert [count for count, _ in cut] == [3, 6, 12, 24, 64, 128]
    shares = [share for _, share in cut]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] <= 1
    assert sum(share for _, share in leading) == pytest.approx(shares[0], abs=0.002)


def test_the_colours_script_prints_a_row_for_each_fineness(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(colours, "LEVELS", (2, 3, 10))
    colours.main([*FEW, f"data.cache_dir={tmp_path}"])
    rows = [row.split("|")[1:3] for row in capsys.readouterr().out.splitlines() if re.match(r"\| \d", row)]
    assert [[int(cell.replace(",", "")) for cell in row] for row in rows] == [[2, 8], [3, 27], [10, 1000]]


def test_the_count_script_finds_the_number_of_far_blobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(count, "IMAGES", (3, 6))
    monkeypatch.setattr(count, "MOST", 8)
    count.main([*FEW, f"data.cache_dir={tmp_path}"])
    printed = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in printed if "spread 0.3" in row]
    assert [row[0] for row in rows] == ["3", "6"]
    for images, _, eigengap, found, _, _ in rows:
        assert float(eigengap.split("±")[0]) == 0
        assert found == images


@pytest.mark.slow
def test_the_leak_script_scores_models_before_and_after_compression(
    tmp_path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    puzzles = ["data.reader.train_images=300", "data.reader.test_images=60", "evaluation.restarts=2"]
    puzzles.append("evaluation.estimate_count=true")  # as with evaluation=robustness
    few = ["data.batches_per_epoch=2", "data.epochs=1", "evaluation.robustness.puzzles=4"]
    others = ("images", "fragment_size", "noise", "rotation", "jitter", "gap", "missing")
    axes = ["evaluation=robustness", *(f"evaluation.robustness.{axis}=[]" for axis in others)]
    mosaic = ["model=mosaic", "model.width=32", "model.depth=1", "model.heads=2"]
    given: list[str] = []
    for name, model in (("mosaic", mosaic), ("pca", ["model=pca"])):
        line = [*cli.SMALL, *model, *axes, *few, *puzzles, "evaluation.puzzles=4"]
        cli.job(tmp_path / name, tmp_path, *line)
        given += ["--run", name, str(tmp_path / name)]
    capsys.readouterr()
    leak.main([*given, *puzzles, "evaluation.puzzles=4", f"data.cache_dir={tmp_path}"])
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in table] == [name for name in ("seam gradients", "`mosaic`", "`pca`") for _ in range(3)]
    assert [bool(cell) for cell in table[3]] == [True, True, True, False, True, False, True, False]
    assert [bool(cell) for cell in table[-1]] == [True] * 4 + [False] * 4
    usual, *compressed = ("as_they_are", "jpeg_quality=95", "jpeg_quality=75")
    for name in ("mosaic", "pca"):
        found = json.loads((results / "leak" / f"{name}.json").read_text())
        scores, minus = found["scores"], found["minus_as_they_are"]
        assert (list(scores), list(minus)) == ([usual, *compressed], compressed)
        own = json.loads((tmp_path / name / "metrics.json").read_text())["scores"]
        assert scores[usual] == {method: own[method] for method in scores[usual]}
        for row in files.read_csv(tmp_path / name / "robustness.csv"):
            if row["method"] == "model":
                again = scores[f"{row['axis']}={row['value']}"]["model"][row["metric"]]
                assert [again["mean"], *again["ci95"]] == [float(row[key]) for key in ("mean", "low", "high")]
        for condition in compressed:
            for method, differences in minus[condition].items():
                for metric, difference in differences.items():
                    one, other = (scores[at][method][metric]["mean"] for at in (condition, usual))
                    assert difference["mean"] == pytest.approx(one - other, abs=1e-12)


def test_results_of_different_puzzles_are_not_compared(results: Path) -> None:
    (results / "leak").mkdir()
    for seed in (0, 1):
        result = {
            "protocol": {"seed": seed},
            "data": {},
            "scores": {"as_they_are": {"model": {}}},
            "minus_as_they_are": {},
        }
        (results / "leak" / f"{seed}.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="'leak/0', 'leak/1'"):
        tables.leak(["leak/0", "leak/1"])


def test_quality_is_named_among_the_harder_conditions(results: Path) -> None:
    row = {"axis": "jpeg_quality", "value": 75, "metric": "kmeans_ari", "mean": 0.5, "low": 0.4, "high": 0.6}
    rows = [row | {"method": method} for method in ("model", "colour_histogram")]
    files.write_csv(results / "one.robustness.csv", rows)
    assert tables.harder(["one"])[1] == ["JPEG quality 75", "0.5000 ± 0.1000", "0.5000 ± 0.1000"]


@pytest.mark.parametrize("devices", [["cpu"], ["cpu", "cuda"]])
def test_timings_of_a_gpu_fill_the_columns_left_for_them(results: Path, devices: list[str]) -> None:
    rows = [
        {
            "batch_size": size,
            "forward": {"ms_an_image": 2.0, "memory_bytes": 5e8, "images_a_second": 125.0},
            "training": {"ms_an_image": 1234.5, "memory_bytes": 3 * 2**30},
            "process_memory_bytes": 4e9,
        }
        for size in (1, 8)
    ]
    found = {"model": {"parameters": 1234, "forward_gflop_an_image": 1.5}, "rows": rows}
    for device in devices:
        for preset in cnn_v3.PRESETS:
            for size in cnn_v3.SIZES:
                path = results / f"{preset}_{size}_float32.{device}.json"
                path.write_text(json.dumps(found | {"rows": rows[:1]}))
        (results / f"mine.{device}.json").write_text(json.dumps(found))
    first, second = tables.filled("<!-- timings: mine -->\n<!-- end of table -->\n").splitlines()[-3:-1]
    gpu = " 2.00 | 1,234 | 3,072 |" if "cuda" in devices else "  |  |  |"
    assert first == f"| `mine` | 1,234 | 1.50 | 1 | 2.00 | 1,234 | 3,072 |{gpu}"
    assert second == f"|  |  |  | 8 | 2.00 | 1,234 | 3,072 |{gpu}"
    estimated = tables.filled("<!-- estimates: . -->\n<!-- end of table -->\n").splitlines()[3:-1]
    gpu = " 3.22 | 4.00 |" if "cuda" in devices else "  |  |"
    assert len(estimated) == 8
    for size in cnn_v3.SIZES:
        for device in devices:
            (results / f"small_{size}.{device}.json").write_text(json.dumps(found))
    speeds = tables.filled("<!-- speeds: . -->\n<!-- end of table -->\n").splitlines()[3:-1]
    ours = ("2.00", "500", "125") if "cuda" in devices else ("", "", "")
    assert speeds[0] == (
        f"| `small`, 201x201 | 8 | 5 to 8 | 2.00 | {ours[0]} | 150 | 500 | {ours[1]} | 2,000 | 125 | {ours[2]} |"
    )
    assert estimated[3] == f"| `small`, 152x1280 | 8 | 2M | 1,234 | 3 | 3.22 | 4.00 |{gpu}"


def test_crops_for_testing_are_of_photographs_that_none_for_training_is_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("one", "other"):
        run(Path(crops.__file__), monkeypatch, "--train", 13, "--test", 4, tmp_path / folder, 40, 700)
        assert "13 crops of 40x700" in capsys.readouterr().out
    for part, number in (("train", 13), ("test", 4)):
        files = sorted((tmp_path / "one" / part).iterdir())
        assert len(files) == number
        for file in files:
            with Image.open(file) as crop:
                assert (crop.size, crop.mode) == ((700, 40), "L")
            assert file.read_bytes() == (tmp_path / "other" / part / file.name).read_bytes()
    assert not set(crops.PARTS["train"]) & set(crops.PARTS["test"])


def test_the_next_latents_of_a_moving_crop_are_predicted_and_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part, number in (("train", 200), ("test", 8)):
        crops.cut(part, number, (32, 32), tmp_path / "crops" / part)
    small = ["model.block_config=[resnet]", "model.channel_config=[8]", "model.stride_config=[4]"]
    few = ["model.latent_dim=16", "data.epochs=1", "evaluation.puzzles=0", "evaluation.validation_puzzles=4"]
    data = ["data.image_size=[32,32]", f"data.root={tmp_path / 'crops'}"]
    cli.job(tmp_path / "run", tmp_path / "cache", "experiment=crops", *small, *few, *data)
    line = ["--out", tmp_path / "next.png", "--tracks", 64, "--steps", 100, "--length", 6]
    run(ROOT / "experiments" / "next_latent.py", monkeypatch, tmp_path / "run", *line)
    printed = capsys.readouterr().out
    assert "48 tracks of 6 crops over photographs that were not trained on" in printed
    (ratio, low, high) = map(float, re.findall(r"of the last: ([\d.]+) \(([\d.]+) to ([\d.]+)\)", printed)[0])
    assert low <= ratio <= high
    assert ratio < 0.9
    with Image.open(tmp_path / "next.png") as figure:
        assert figure.width > figure.height
