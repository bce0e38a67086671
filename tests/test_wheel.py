"""What is built is what runs: a wheel, installed where the checkout is not seen."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli import ROOT, SMALL, shared_cache, status

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not a checkout"),
]


def call(*line: object, cwd: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HYDRA"))}
    command = [str(part) for part in line]
    done = subprocess.run(command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, folder: Path) -> Path:
    """Build the wheel of a source folder."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


def install(wheel: Path, folder: Path) -> Path:
    """Install a wheel, without what it depends on, into a folder."""
    call(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(wheel, tmp_path_factory.mktemp("installed"))


def test_the_wheel_holds_the_package_its_configuration_and_nothing_else(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"fragrecon/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "fragrecon").rglob("*.py")}
    assert "fragrecon/conf/config.yaml" in expected
    assert expected <= held
    assert "fragrecon/py.typed" in held
    tops = {name.partition("/")[0] for name in held}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fragrecon"}
    assert not [name for name in held if name.endswith((".pyc", ".ckpt"))]


def test_an_installed_package_runs_from_its_own_files_in_an_empty_folder(
    installed: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    place["MPLCONFIGDIR"] = str(shared_cache(tmp_path_factory) / "matplotlib")  # its list of fonts takes long to build
    work = tmp_path / "work"
    work.mkdir()
    code = "import fragrecon, fragrecon.run; print(fragrecon.__file__); print(fragrecon.run.CONF)"
    found = [Path(line) for line in call(sys.executable, "-c", code, cwd=work, **place).split()]
    assert found == [installed / "fragrecon" / "__init__.py", installed / "fragrecon" / "conf"]
    call(sys.executable, "-m", "fragrecon.run", *SMALL, "model=pca", "data.epochs=1", cwd=work, **place)
    (folder,) = (work / "outputs").glob("*/*")
    assert status(folder)["status"] == "done"
    assert [path.name for path in work.iterdir()] == ["outputs"]


def test_the_command_is_installed_too(installed: Path, tmp_path: Path) -> None:
    place = {"PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path)}
    text = call(sys.executable, installed / "bin" / "fragrecon", "--cfg", "job", cwd=tmp_path, **place)
    assert text.startswith("mode: train") or "mode: train" in text
