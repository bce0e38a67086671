"""``mode=report``: what is said of a sweep or a run follows from its files alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fragrecon.errors import ConfigError, RunError
from fragrecon.report import leaderboard
from fragrecon.report.metrics import label
from fragrecon.report.sweep_files import update_leaderboard
from fragrecon.runs.read import load_run
from fragrecon.runs.sweeps import begin
from fragrecon.runs.write import PAGE
from tests.cli import SMALL, Cli, fingerprint, job, names, status, table
from tests.jobs.test_reconstruction import BASELINES, MASKED, TINY, WHOLE

pytestmark = pytest.mark.timeout(180)
LINE = (*SMALL, "model=pca", "data.batches_per_epoch=4", "data.epochs=1")
TABLES = ("leaderboard.csv", "leaderboard.md")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a sweep of two finished jobs and one that was refused; only to be read."""
    folder = tmp_path_factory.mktemp("report") / "sizes"
    begin(folder, "sizes", 3, ["model.latent_dim=8,16,-1"], ["model.latent_dim"])
    for size in (8, 16):
        job(folder / str(size), cache, *LINE, f"model.latent_dim={size}")
    with pytest.raises(ConfigError):
        job(folder / "bad", cache, *LINE, "model.latent_dim=-1")
    update_leaderboard(folder, page=True)
    return folder


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> Path:
    """That sweep, moved to another folder."""
    return Path(shutil.copytree(made, tmp_path / "else where" / "moved"))


def test_tables_and_page_of_a_sweep_come_back_as_they_were(
    tmp_path: Path, cache: Path, made: Path, sweep: Path
) -> None:
    before = fingerprint(sweep)
    for name in (*TABLES, PAGE):
        (sweep / name).unlink()
    result = Cli(tmp_path, cache).here("mode=report", f"sweep.dir='{sweep}'").ok()
    assert "sizes: 3 configurations" in result.stdout
    assert f"page: {sweep / PAGE}" in result.stdout
    after = fingerprint(sweep)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {PAGE}
    page = (sweep / PAGE).read_text()
    assert "model.latent_dim=-1" in page
    assert abs(len(page) - len((made / PAGE).read_text())) < 0.01 * len(page)
    (report,) = (tmp_path / "outputs").glob("*/*")
    assert report.name.endswith("-report")
    assert status(report)["status"] == "done"


def test_the_page_of_a_run_lies_in_its_folder(tmp_path: Path, cache: Path, finished: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "moved"))
    before = fingerprint(folder)
    job(tmp_path / "report", cache, "mode=report", f"run={folder}")
    after = fingerprint(folder)
    assert after.keys() - before.keys() <= {PAGE}
    assert before.items() <= (after | {PAGE: before.get(PAGE)}).items()
    assert "ConvAutoencoder" in (folder / PAGE).read_text() or "conv" in (folder / PAGE).read_text()


def test_a_sweep_of_masked_images_has_tables_and_pages_of_what_was_filled_in(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "rates"
    begin(folder, "rates", 3, ["optimizer.lr=0.003,0.0001"], ["optimizer.lr"])
    line = [*TINY["mae"], *WHOLE]
    for rate in ("0.003", "0.0001"):
        job(folder / rate, cache, *line, f"optimizer.lr={rate}", figures=rate == "0.003")
    job(folder / "harder", cache, *line, "optimizer.lr=1e-7", "evaluation.reconstruction.ratio=0.95")
    assert names(folder / "0.003" / "figures") == ["masked.png"], "what the page of the sweep shows"
    job(tmp_path / "report", cache, "mode=report", f"sweep.dir={folder}")
    rows = {row["jobs"]: row for row in table(folder)}
    for row in rows.values():
        assert {metric for metric in row if metric in MASKED and row[metric]} == MASKED
    assert [row["jobs"] for row in table(folder)] == ["0.003", "0.0001", "harder"]
    best, other = (load_run(folder / rate).scores["model/masked_psnr"] for rate in ("0.003", "0.0001"))
    assert float(rows["0.0001"]["masked_psnr_minus_best"]) == pytest.approx((other - best).mean())
    assert rows["0.003"]["masked_psnr_minus_best"] == rows["harder"]["masked_psnr_minus_best"] == ""
    text = (folder / "leaderboard.md").read_text()
    assert all(label(name) in text for name in BASELINES)
    assert "KMeans" not in text
    job(tmp_path / "page", cache, "mode=report", f"run={folder / '0.003'}")
    for page in (folder / PAGE, folder / "0.003" / PAGE):
        assert "Masked images" in page.read_text()
        assert ">Puzzles<" not in page.read_text()


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        (["mode=report"], ConfigError, "sweep.dir=FOLDER or run=FOLDER"),
        (["mode=report", "sweep.dir=nowhere"], RunError, "nowhere"),
        (["mode=report", "run=nowhere"], RunError, "nowhere"),
    ],
)
def test_what_there_is_nothing_to_report_on_is_refused(
    tmp_path: Path, cache: Path, line: list[str], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        job(tmp_path / "report", cache, *line)
    assert words in status(tmp_path / "report")["error"]
    assert not (tmp_path / "nowhere").exists()


def test_a_run_is_no_sweep(tmp_path: Path, cache: Path, finished: Path) -> None:
    before = fingerprint(finished)
    with pytest.raises(RunError, match="sweep"):
        job(tmp_path / "report", cache, "mode=report", f"sweep.dir={finished}")
    assert fingerprint(finished) == before


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def emptied(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("{}")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half a config": cut("config.yaml"),
    "a foreign config": lambda folder: (folder / "config.yaml").write_text("a: 1\n"),
    "half of the metrics": cut("metrics.json"),
    "foreign metrics": emptied("metrics.json"),
    "metrics without scores of the model": lambda folder: (
        (folder / "metrics.json").write_text('{"scores": {}}') and None
    ),
    "half of the scores": cut("scores.npz"),
    "no scores": lambda folder: (folder / "scores.npz").unlink(),
    "half of the status": cut("status.json"),
    "foreign status": emptied("status.json"),
    "half of the epochs": lambda folder: (folder / "metrics.csv").write_text("epoch,step\n0,x\n"),
    "half of the overrides": lambda folder: (folder / "overrides.yaml").write_text("- ["),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_job_is_told_of_and_the_others_stand(sweep: Path, damage: str) -> None:
    DAMAGES[damage](sweep / "16")
    before = fingerprint(sweep / "16")
    board = update_leaderboard(sweep, page=True)
    whole, *rest = table(sweep)
    assert (whole["rank"], whole["jobs"]) == ("1", "8")
    assert {row["rank"] for row in rest} == {""}
    failures = [line for line in leaderboard.troubles(board) if line.startswith("16 failed: ")]
    assert len(failures) == 1
    assert len(failures[0]) > len("16 failed: ")
    assert "Traceback" not in failures[0]
    assert fingerprint(sweep / "16") == before
    assert "16" in (sweep / PAGE).read_text()


def test_damaged_examples_leave_the_figures_and_the_page(made: Path, sweep: Path) -> None:
    cut("examples.npz")(sweep / "16")
    update_leaderboard(sweep, page=True)
    assert table(sweep) == table(made)
    assert "</html>" in (sweep / PAGE).read_text()


def test_a_sweep_of_which_nothing_has_begun_is_an_empty_table(tmp_path: Path, cache: Path) -> None:
    begin(tmp_path / "sweep", "nothing yet", 4, [], [])
    job(tmp_path / "report", cache, "mode=report", f"sweep.dir={tmp_path / 'sweep'}")
    assert table(tmp_path / "sweep") == []
    assert "nothing yet" in (tmp_path / "sweep" / PAGE).read_text()
