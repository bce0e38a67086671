"""What is built is what runs: a wheel, installed where the checkout is not seen."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli import ROOT, SMALL, shared_cache, status
from tests.wheels import call, site, wheel

__all__ = ["site", "wheel"]  # fixtures

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not a checkout"),
]


@pytest.fixture(scope="module")
def source() -> Path:
    return ROOT


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
    site: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    place["MPLCONFIGDIR"] = str(shared_cache(tmp_path_factory) / "matplotlib")  # its list of fonts takes long to build
    work = tmp_path / "work"
    work.mkdir()
    code = "import fragrecon, fragrecon.run; print(fragrecon.__file__); print(fragrecon.run.CONF)"
    found = [Path(line) for line in call(sys.executable, "-c", code, cwd=work, **place).split()]
    assert found == [site / "fragrecon" / "__init__.py", site / "fragrecon" / "conf"]
    call(sys.executable, "-m", "fragrecon.run", *SMALL, "model=pca", "data.epochs=1", cwd=work, **place)
    (folder,) = (work / "outputs").glob("*/*")
    assert status(folder)["status"] == "done"
    assert [path.name for path in work.iterdir()] == ["outputs"]


def test_the_command_is_installed_too(site: Path, tmp_path: Path) -> None:
    place = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path)}
    text = call(sys.executable, site / "bin" / "fragrecon", "--cfg", "job", cwd=tmp_path, **place)
    assert text.startswith("mode: train") or "mode: train" in text
