"""Time and memory at the size of ImageNet: conversion, also after a kill, opening, batches, ranks, and a job.

    python benchmarks/imagenet_size.py [--files N ...] [--images M] [--folder FOLDER] [--out FOLDER]

Writes N training files in the authors' layout, pickles of M images of 64x64 each, and a file of 50,000 test images, all
of noise with its own number in each image. Ten files of the default size are the whole of ImageNet: they take 16 GB,
and the converted images another 16 GB; all is deleted at the end. With several N, the growth of the peak memory from
the first to the last is written as well. Each stage runs in a process of its own:

* conversion killed by SIGKILL when half of the pixels are written, and resumed by another process;
* opening of both splits, the first batch, the order of a whole epoch, and a few batches;
* two processes that read the same images, and the memory of which their maps take together;
* a job that trains a few steps and scores test puzzles.

Prints the stages and writes ``FOLDER/imagenet_size.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fragrecon import files
from fragrecon.data.module import FragmentData
from fragrecon.data.store import IMAGES
from fragrecon.evaluation.setup import open_data
from fragrecon.run import compose
from fragrecon.runs.write import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES_A_FILE, TEST_IMAGES, VALUES = 128_117, 50_000, 3 * 64 * 64
SHARED = 20_000
"""Images that both processes read."""
BATCHES = 50
"""Batches that are timed after the first."""


def make(folder: Path, number: int, images: int) -> dict[str, Any]:
    """Write the training files and one of test images; the first four bytes of an image are its number."""
    noise = np.random.default_rng(0).integers(0, 256, (images, VALUES), np.uint8)
    names = [Path("train_data", f"train_data_batch_{part + 1}") for part in range(number)]
    for part, name in enumerate([*names, Path("val_data")]):
        count = images if part < number else min(TEST_IMAGES, images)
        numbers = np.arange(part * images, part * images + count)
        noise[:count, :4] = numbers.astype("<u4").view(np.uint8).reshape(-1, 4)
        labels = (numbers % 1000 + 1).tolist()
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            pickle.dump({"data": noise[:count], "labels": labels, "mean": noise[:count].mean(0)}, file, protocol=4)
    return {}


def data_of(folder: Path) -> FragmentData:
    return open_data(compose(["data=imagenet64", f"data.root={folder}", f"data.cache_dir={folder / 'cache'}"]))


def convert(folder: Path) -> dict[str, Any]:
    store = data_of(folder).store("train")
    return {"images": len(store), "bytes": (store.folder / IMAGES).stat().st_size}


def use(folder: Path) -> dict[str, Any]:
    """Open both splits and time what training does with them; all images of an epoch are different ones."""
    started = time.perf_counter()
    data = data_of(folder)
    found = {"images": len(data.store("train")), "test_images": len(data.store("test"))}
    opened = time.perf_counter()
    data.train_batch(0)
    first = time.perf_counter()
    order = np.concatenate([data._drawn(number, 1) for number in range(data.batches_per_epoch)])
    ordered = time.perf_counter()
    assert len(np.unique(order)) == len(order)
    began = time.perf_counter()
    for number in range(1, BATCHES + 1):
        data.train_batch(number)
    ended = time.perf_counter()
    ids = np.random.default_rng(1).integers(0, found["images"], 1000)
    assert (data.store("train").read(ids).reshape(1000, -1)[:, :4].copy().view("<u4")[:, 0] == ids).all()
    return found | {
        "open_seconds": opened - started,
        "first_batch_seconds": first - opened,
        "batches_an_epoch": data.batches_per_epoch,
        "order_seconds": ordered - first,
        "seconds_a_batch": (ended - began) / BATCHES,
    }


def rank(folder: Path) -> dict[str, Any]:
    """Read images, say so, and wait for the end of the input."""
    store = data_of(folder).store("train")
    total = sum(int(store.images[at].sum()) for at in range(min(SHARED, len(store))))
    print("ready", flush=True)
    sys.stdin.read()
    return {"sum": total}


def share(folder: Path) -> dict[str, Any]:
    """Return the bytes of the map of one process, and those of both together, each page counted once."""
    line = [sys.executable, __file__, "--stage", "rank", "--folder", str(folder)]
    ranks = [subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in ranks:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    maps = [_mapped(process.pid) for process in ranks]
    for process in ranks:
        process.communicate()
    return {"bytes_of_one": maps[0]["Rss"], "bytes_of_both": sum(found["Pss"] for found in maps)}


def _mapped(process: int) -> dict[str, int]:
    """Bytes of the mapped images of a process; of a page that n processes map, ``Pss`` counts 1 / n."""
    text = Path(f"/proc/{process}/smaps").read_text()
    (section,) = re.findall(rf"{re.escape(IMAGES)}\n((?:\w+: .*\n)+)", text)
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+): +(\d+) kB", section, re.MULTILINE)}


def job(folder: Path) -> dict[str, Any]:
    line = [sys.executable, "-m", "fragrecon.run", "model=conv", "data=imagenet64", f"data.root={folder}"]
    line += [f"data.cache_dir={folder / 'cache'}", "data.batches_per_epoch=10", "data.epochs=1"]
    line += ["evaluation.puzzles=20", "evaluation.validation_puzzles=8", f"hydra.run.dir={folder / 'run'}"]
    os.execv(sys.executable, line)


STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {"convert": convert, "use": use, "share": share, "job": job}


def run(name: str, folder: Path, *options: str, kill: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run a stage in a process of its own; return its facts, seconds and peak memory.

    Args:
        name: of the stage.
        folder: of the data.
        options: more arguments of this script.
        kill: whether the process is to be killed now.

    Raises:
        RuntimeError: the stage failed.
    """
    line = [sys.executable, __file__, "--stage", name, "--folder", str(folder), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended, anonymous, killed, started = threading.Event(), 0, False, time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(line, stdout=output, env=environment)

        def watch() -> None:
            nonlocal anonymous, killed
            while not ended.wait(0.02):
                found = re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
                anonymous = max(anonymous, int(found[1]) * 1024 if found else 0)
                if not killed and kill():
                    killed = True
                    process.kill()

        watcher = threading.Thread(target=watch)
        watcher.start()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ended.set()
        watcher.join()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        lines = output.read().decode().splitlines()
    if process.returncode and not killed:
        raise RuntimeError(f"{name} ended with exit code {process.returncode}")
    facts = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return {
        **facts,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "peak_anonymous_bytes": anonymous,
    }


def measure(folder: Path, number: int, images: int) -> dict[str, Any]:
    """Make the data of one size, run all stages on it, and delete it."""
    half = number * images * VALUES // 2
    stages: dict[str, Any] = {}
    try:
        stages["make"] = run("make", folder, "--files", str(number), "--images", str(images))
        parts = "cache/*/.train.*.part"

        def is_half() -> bool:
            return any(path.stat().st_size >= half for path in folder.glob(f"{parts}/{IMAGES}"))

        stages["convert, killed"] = run("convert", folder, kill=is_half)
        (left,) = folder.glob(parts)
        stages["convert, killed"]["bytes"] = (left / IMAGES).stat().st_size
        stages["convert, resumed"] = run("convert", folder)
        assert not list(folder.glob(parts))
        for name in ("use", "share", "job"):
            stages[name] = run(name, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"files": number, "images": number * images, "stages": stages}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--images", type=int, default=IMAGES_A_FILE)
    parser.add_argument("--folder", type=Path, help="where the data are made; by default a temporary folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.stage == "make":
        print(json.dumps(make(given.folder, given.files[0], given.images)))
        return
    if given.stage:
        print(json.dumps((STAGES | {"rank": rank})[given.stage](given.folder)))
        return
    command = re.sub(r"(--folder|--out)([ =])\S+", r"\1\2FOLDER", " ".join(arguments))
    result: dict[str, Any] = {
        "rows": [],
        "machine": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores",
        "versions": versions(),
        "command": f"python benchmarks/imagenet_size.py {command}".strip(),
        "date": time.strftime("%Y-%m-%d"),
    }
    for number in given.files:
        row = measure(Path(tempfile.mkdtemp(prefix="imagenet-", dir=given.folder)), number, given.images)
        result["rows"].append(row)
        for name, stage in row["stages"].items():
            print(
                f"{row['images']:>9,} images, {name:<16} {stage['seconds']:7.1f} s, {stage['cpu_seconds']:7.1f} s of "
                f"CPU, peak {stage['peak_anonymous_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
        first = result["rows"][0]["stages"]
        result["growth_of_peak_bytes"] = {
            name: stage["peak_anonymous_bytes"] - first[name]["peak_anonymous_bytes"]
            for name, stage in row["stages"].items()
        }
        files.write_json(given.out / "imagenet_size.json", result)
    print(f"wrote {given.out / 'imagenet_size.json'}")


if __name__ == "__main__":
    main(sys.argv[1:])
