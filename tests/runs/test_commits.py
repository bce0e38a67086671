"""Commits of the code that a run is made by, in real checkouts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fragrecon.config import plugins
from fragrecon.run import compose
from fragrecon.runs.commits import commit, commits, location


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a package, a module and an ignored folder; it is the working folder."""
    for name in ("mine/__init__.py", "single.py", ".gitignore", "site/other/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("site/\n__pycache__/\n" if name == ".gitignore" else "")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_trusted", set())
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.setattr(plugins, "registered", list)
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    commit.cache_clear()
    return tmp_path


def now(*paths: Path) -> str | None:
    commit.cache_clear()
    return commit(paths)


def test_the_commit_of_a_package_tells_whether_its_own_files_are_changed(checkout: Path) -> None:
    head, package = git(checkout, "rev-parse", "HEAD"), checkout / "mine"
    assert len(head) == 40
    assert now(package) == now(checkout / "single.py") == head
    (checkout / "single.py").write_text("a = 1\n")
    assert (now(package), now(checkout / "single.py")) == (head, f"{head}-dirty")
    assert now(package, checkout / "single.py") == f"{head}-dirty"
    (package / "new.py").touch()
    assert now(package) == f"{head}-dirty"
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message", "second")
    assert now(package) == git(checkout, "rev-parse", "HEAD") != head


def test_bytecode_is_no_change(checkout: Path) -> None:
    (checkout / "mine" / "__pycache__").mkdir()
    (checkout / "mine" / "__pycache__" / "a.pyc").touch()
    assert now(checkout / "mine") == git(checkout, "rev-parse", "HEAD")


def test_what_is_in_no_checkout_or_ignored_by_it_has_no_commit(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert now(checkout / "site" / "other") is None
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert now(elsewhere) is None
    git(elsewhere, "init", "--quiet")  # without a commit
    assert now(elsewhere) is None


def test_packages_and_modules_are_located_without_an_import(checkout: Path) -> None:
    assert location("mine") == checkout / "mine"
    assert location("single") == checkout / "single.py"
    assert location("nowhere") is None
    assert location("yaml") == Path(sys.modules["yaml"].__file__ or "").parent
    assert not {"mine", "single"}.intersection(sys.modules)


def test_all_packages_of_a_job_are_recorded(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = git(checkout, "rev-parse", "HEAD")
    assert commits(compose(["model=pca"])).keys() == {"fragrecon"}
    found = commits(compose(["model=pca", "plugins=[mine]", "objective._target_=single.Loss"]))
    assert {name: found[name] for name in ("mine", "single")} == {"mine": head, "single": head}
    monkeypatch.setattr(plugins, "_trusted", set())
    monkeypatch.setenv(plugins.VARIABLE, "nowhere")
    assert commits(compose(["model=pca"]))["nowhere"] is None
