"""Trained weights as a package: what is built from ``packages/fragrecon-mosaic`` loads by its name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from fragrecon import load_run
from tests.cli import ROOT, Cli, fingerprint, job, metrics, read_json, shared_run, status
from tests.jobs.reassembled import CHINA, TINY
from tests.wheels import call, place, site, wheel

__all__ = ["place", "site", "wheel"]  # fixtures

PACKAGE = ROOT / "packages" / "fragrecon-mosaic"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="not a checkout"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A copy of the package's source with the weights of a small model."""
    folder = tmp_path_factory.mktemp("source")
    weights = folder / "fragrecon-mosaic" / "src" / "fragrecon_mosaic"
    weights.mkdir(parents=True)
    shutil.copy(PACKAGE / "pyproject.toml", folder / "fragrecon-mosaic")
    shutil.copy(PACKAGE / "src" / "fragrecon_mosaic" / "__init__.py", weights)
    run = shared_run(tmp_path_factory, "mosaic", *TINY)
    job(folder / "job", cache, "mode=export", f"run={run}", f"output={weights}", "export.onnx=false")
    return folder / "fragrecon-mosaic"


def test_the_wheel_holds_the_export_and_registers_its_name(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    inner = {path.name: path.read_bytes() for path in (source / "src" / "fragrecon_mosaic").iterdir()}
    assert {name.partition("/")[2]: held[name] for name in held if name.startswith("fragrecon_mosaic/")} == inner
    (points,) = (text.decode() for name, text in held.items() if name.endswith("entry_points.txt"))
    assert points.split() == ["[fragrecon.weights]", "mosaic", "=", "fragrecon_mosaic"]
    (facts,) = (text.decode() for name, text in held.items() if name.endswith("METADATA"))
    assert "Requires-Dist" not in facts


def test_installed_weights_load_in_a_line_in_a_fresh_process(
    site: Path, source: Path, tmp_path: Path, cache: Path, place: dict[str, str]
) -> None:
    code = (
        "import json, sys\n"
        "from fragrecon import load_run\n"
        "run = load_run('mosaic')\n"
        "total = float(run.model.state_dict()['head.weight'].sum())\n"
        "imported = 'fragrecon_mosaic' in sys.modules\n"
        "print(json.dumps([run.model_name, run.metrics['export']['sha256'], str(run.folder), total, imported]))"
    )
    line = [sys.executable, "-c", code]
    environment = Cli(tmp_path, cache).environment(**place)
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=True)
    name, digest, folder, total, imported = json.loads(done.stdout)
    made = load_run(source / "src" / "fragrecon_mosaic")
    assert (name, digest, imported) == ("mosaic", made.metrics["export"]["sha256"], False)
    assert Path(folder) == site / "fragrecon_mosaic"
    assert total == pytest.approx(float(made.model.state_dict()["head.weight"].sum()))


def test_the_modes_take_installed_weights_by_their_name(
    site: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(site)
    before, cli = fingerprint(site), Cli(tmp_path, cache)
    cli.here("mode=reassemble", "run=mosaic", f"input={CHINA.parent}", "hydra.run.dir=reassembled").ok()
    assert read_json(tmp_path / "reassembled" / "placement.json")["images"] == 2
    cli.here("mode=evaluate", "run=mosaic", "evaluation.puzzles=2", "hydra.run.dir=evaluated").ok()
    assert metrics(tmp_path / "evaluated")["protocol"]["puzzles"] == 2
    still = ["optimizer.lr=0", "optimizer.weight_decay=0", "trainer.limit_train_batches=2", "evaluation.puzzles=0"]
    cli.here(*TINY, "seed=5", "init_from=mosaic", *still, "hydra.run.dir=trained").ok()
    assert status(tmp_path / "trained")["status"] == "done"
    trained = load_run(tmp_path / "trained")
    assert trained.config.init_from == "mosaic"
    for name, weight in load_run(site / "fragrecon_mosaic").model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], weight), name
    after = fingerprint(site)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.startswith("fragrecon_mosaic") and name not in before]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_installs_the_package_once_its_weights_are_there(tmp_path: Path) -> None:
    for path in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / path, tmp_path)
    weights = tmp_path / PACKAGE.relative_to(ROOT) / "src" / "fragrecon_mosaic" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    assert "fragrecon-mosaic" not in call("make", "-n", "install", cwd=tmp_path)
    weights.touch()
    assert "--editable packages/fragrecon-mosaic" in call("make", "-n", "install", cwd=tmp_path)
