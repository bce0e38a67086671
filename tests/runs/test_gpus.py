"""GPUs of parallel jobs, by processes that end or go on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fragrecon.runs import gpus

CLAIM = """
import os, sys
from pathlib import Path
from fragrecon.runs.gpus import claim_gpu, visible_gpus
for _ in range(2):  # two jobs
    claim_gpu(Path(sys.argv[1]), visible_gpus())
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def started(folder: Path, visible: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-c", CLAIM, str(folder)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    return subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def seen_by(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_each_process_has_a_gpu_of_its_own_for_as_long_as_it_runs(tmp_path: Path) -> None:
    gpus_of_machine = "0,GPU-8a/b"
    first = started(tmp_path, gpus_of_machine)
    assert seen_by(first) == "0"
    second = started(tmp_path, gpus_of_machine)
    assert seen_by(second) == "GPU-8a/b"
    third = started(tmp_path, gpus_of_machine)
    assert seen_by(third) == gpus_of_machine  # none is left, so it shares
    first.kill()
    first.wait()
    fourth = started(tmp_path, gpus_of_machine)
    assert seen_by(fourth) == "0"
    for process in (second, third, fourth):
        process.communicate("")


@pytest.mark.parametrize("visible", ["", "0"])
def test_one_gpu_or_none_is_not_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.claim_gpu(tmp_path, gpus.visible_gpus()) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert not list(tmp_path.iterdir())
