"""Everything that is worth knowing of a GPU, in parts that are resumed: `make gpu`.

    python benchmarks/gpu.py [--parts NAME ...] [--seconds S] [--out FOLDER] [--tiny] [data=imagenet64 data.root=FOLDER]

Each part writes ``FOLDER/PART.json`` when it is done, and is skipped by the next call; a part that failed, and those
for which no time was left, run then. No part starts after S seconds, and commands are stopped then, so that a call fits
within ten minutes. Other arguments are overrides of the data; without any, images are synthetic, and parts that need
photographs say so. ``--tiny`` is for a machine without a GPU: the smallest sizes.

The last lines are a table of all parts, and what could not be done.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import training
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.clustering.kmeans import kmeans
from fragrecon.data.batches import Batches
from fragrecon.errors import FragreconError
from fragrecon.evaluation.setup import open_data, protocol_of
from fragrecon.evaluation.timing import time_of
from fragrecon.jobs.bench import machine
from fragrecon.run import compose
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.write import versions
from fragrecon.seeds import keys_of

RESULTS = Path(__file__).resolve().parent / "results" / "gpu"
MODELS = ("conv", "mosaic", "mae", "energy_transformer", "cnn_v3_tiny")
EMBEDDING_TOLERANCE = 1e-3
"""Largest difference of embeddings between device and CPU in float32, relative to their root mean square."""
SCORE_TOLERANCE = 0.01
"""Largest difference of a mean score between device and CPU, for equal embeddings."""
INERTIA_TOLERANCE = 0.01
"""Largest relative difference of the mean inertia from that of scikit-learn."""


class NotPossibleError(Exception):
    """This machine, or these settings, lack what a part needs."""


@dataclass(frozen=True)
class Call:
    """What the parts of a call have in common.

    Attributes:
        data: overrides of the data.
        tiny: whether the smallest sizes are used.
        end: time, as of `time.monotonic`, at which commands are stopped.
    """

    data: Sequence[str]
    tiny: bool
    end: float

    def overrides(self, model: str, puzzles: int) -> list[str]:
        """Overrides of a model on this machine's device."""
        few = ["data.reader.train_images=400", "data.reader.test_images=100"] if not self.data else []
        return [f"model={model}", "trainer=auto", f"data.puzzles_per_batch={puzzles}", *few, *self.data]

    def command(self, folder: Path, *overrides: str, kill: bool = False) -> float:
        """Run `fragrecon.run` in a folder and return its seconds.

        Args:
            folder: run folder.
            overrides: of the command line.
            kill: whether the process is killed as soon as there is a checkpoint.

        Raises:
            RuntimeError: the command failed, or took too long.
        """
        line, started = [sys.executable, "-m", "fragrecon.run", *overrides], time.perf_counter()
        process = subprocess.Popen([*line, *([] if "resume=" in overrides[0] else [f"hydra.run.dir={folder}"])])
        while process.poll() is None:
            if kill and (folder / "checkpoints" / "last.ckpt").is_file():
                process.kill()
            if time.monotonic() > self.end:
                process.terminate()
                process.wait()
                raise RuntimeError("there was no time left")
            time.sleep(0.02)
        if process.returncode not in ((-signal.SIGKILL,) if kill else (0,)):
            raise RuntimeError(f"the command ended with exit code {process.returncode}")
        return time.perf_counter() - started


def smoke(call: Call) -> dict[str, Any]:
    """Embeddings of each model, and scores of equal embeddings, on the device and on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found: dict[str, Any] = {}
    for model in MODELS[:2] if call.tiny else MODELS:
        config = compose([*call.overrides(model, 2), "evaluation.restarts=2"])
        data, device = open_data(config), hardware.device_of(config.trainer)
        batch = data.train_batch(0).as_float()
        network = build_model(config, Facts(config.data.fragment_shape, data.grid, training.CLASSES))[0].eval()
        with torch.no_grad():
            expected = network.encode(batch.fragments)
            embedded = network.to(device).encode(batch.to(device).fragments).cpu()
        protocol = protocol_of(config)
        scores = [protocol.score(expected.to(at), batch.to(at)) for at in ("cpu", device)]
        found[model] = {
            "embedding_difference": float((embedded - expected).abs().max() / expected.square().mean().sqrt()),
            "score_difference": max(
                abs(float(value.mean()) - float(scores[1][name].mean())) for name, value in scores[0].items()
            ),
        }
    equal = all(
        row["embedding_difference"] <= EMBEDDING_TOLERANCE and row["score_difference"] <= SCORE_TOLERANCE
        for row in found.values()
    )
    return {"models": found, "equal": equal}


def rates(call: Call) -> dict[str, Any]:
    """Training steps of each model by puzzles a step, eager and compiled: time, memory and share of the peak."""
    rows = []
    for model in MODELS[:1] if call.tiny else MODELS:
        for puzzles in (2,) if call.tiny else (8, 32, 128):
            for mode in ("null",) if call.tiny else ("null", "default"):
                config = compose([*call.overrides(model, puzzles), f"compute.compile={mode}"])
                row: dict[str, Any] = {"model": model, "puzzles": puzzles, "compiled": mode != "null"}
                steps, side = (2, 64) if call.tiny else (20, 8192)
                try:
                    row |= training.step_figures(config, steps, made=True, side=side)
                except (FragreconError, RuntimeError) as error:
                    row["failed"] = str(error).partition("\n")[0]
                rows.append(row)
                if time.monotonic() > call.end:
                    return {"rows": rows, "stopped": "there was no time left"}
    return {"rows": rows}


def data_path(call: Call) -> dict[str, Any]:
    """Share of the time for which training steps wait for batches: made in a thread, pinned, copied as uint8."""
    puzzles, steps = (2, 3) if call.tiny else (32, 100)
    config = compose(call.overrides("conv" if call.tiny else "mosaic", puzzles))
    data, device = open_data(config), hardware.device_of(config.trainer)
    model, objective = build_model(config, Facts(config.data.fragment_shape, data.grid, training.CLASSES))
    model, objective = model.to(device), objective.to(device)
    pinned = device.type == "cuda"
    batches = Batches(lambda n: b.pin_memory() if (b := data.train_batch(n)) and pinned else b, lambda: range(steps), 1)
    waiting, started, asked = 0.0, 0.0, time.perf_counter()
    for number, batch in enumerate(batches):
        if number:
            waiting += time.perf_counter() - asked
        else:
            started = time.perf_counter()  # the first batch cannot be made ahead
        with torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision_of(config.trainer) == "bf16-mixed"):
            generator = torch.Generator(device).manual_seed(number)
            loss = objective(model, batch.to(device, non_blocking=True).as_float(), generator)["loss"]
        loss.backward()
        if pinned:
            torch.cuda.synchronize(device)
        asked = time.perf_counter()
    return {"puzzles": puzzles, "steps": steps, "share_waiting": waiting / (asked - started)}


def clustering(call: Call) -> dict[str, Any]:
    """KMeans of many puzzles by the engine on the device and on the CPU, by scikit-learn, and by flash-kmeans."""
    puzzles, restarts, k = 4 if call.tiny else 256, 10, 10
    device = hardware.device_of(compose(["trainer=auto"]).trainer)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(puzzles, k, 128, generator=generator)
    points = centres.repeat_interleave(16, 1) + torch.randn(puzzles, 16 * k, 128, generator=generator)
    keys, seconds = keys_of(0, "benchmark", 0, puzzles), 0.2 if call.tiny else 10.0
    found: dict[str, Any] = {"puzzles": puzzles, "restarts": restarts, "seconds": {}, "inertia": {}}
    for name, at in {"cpu": torch.device("cpu"), device.type: device}.items():
        work = partial(kmeans, points.to(at), k, keys.to(at), restarts)
        found["inertia"][name] = float(work().inertia.mean())
        found["seconds"][name] = time_of(work, seconds).seconds
    started = time.perf_counter()
    fits = [KMeans(k, n_init=restarts, random_state=0).fit(one.numpy()).inertia_ for one in points[:16]]
    found["seconds"]["scikit-learn"] = (time.perf_counter() - started) * puzzles / len(fits)
    expected = statistics.mean(fits)
    own = float(kmeans(points[:16], k, keys[:16], restarts).inertia.mean())
    found["inertia_ratio"] = own / expected
    found["equal"] = all(
        abs(value / found["inertia"]["cpu"] - 1) <= INERTIA_TOLERANCE for value in found["inertia"].values()
    ) and own <= expected * (1 + INERTIA_TOLERANCE)
    if device.type == "cuda" and find_spec("flash_kmeans"):
        from flash_kmeans import batch_kmeans_Euclid

        many = points.to(device, torch.float16).repeat_interleave(restarts, 0)
        found["seconds"]["flash-kmeans"] = time_of(lambda: batch_kmeans_Euclid(many, n_clusters=k), seconds).seconds
    else:
        found["not_done"] = "flash-kmeans: not installed, or no GPU"
    return found


def sprint(call: Call) -> dict[str, Any]:
    """`experiment=sprint` from a cold start."""
    if not call.data:
        raise NotPossibleError("experiment=sprint needs photographs: give data=imagenet64 data.root=FOLDER")
    return training.sprint(["trainer=auto", *call.data])


def bench(call: Call) -> dict[str, Any]:
    """`mode=bench` of the published networks."""
    found = {}
    for model in ("conv",) if call.tiny else ("cnn_v3_tiny", "cnn_v3_small", "cnn_v3_medium", "cnn_v3_large"):
        with tempfile.TemporaryDirectory() as scratch:
            sizes = "[1]" if call.tiny else "[1,32,128]"
            settings = [f"bench.batch_sizes={sizes}", f"bench.seconds={0.1 if call.tiny else 2}"]
            call.command(Path(scratch, "run"), "mode=bench", f"model={model}", "trainer=auto", *settings)
            found[model] = files.read_json(Path(scratch, "run", "bench.json"))["rows"]
    return {"models": found}


SHORT = ("data.epochs=2", "evaluation.puzzles=0", "evaluation.validation_puzzles=4", "evaluation.train_puzzles=0")


def resume(call: Call) -> dict[str, Any]:
    """A run that is killed and resumed beside one that is not: the largest relative difference of their weights."""
    line = [*call.overrides("conv" if call.tiny else "mosaic", 2), *SHORT, "data.batches_per_epoch=20"]
    line.append("trainer.checkpoint_every_n_steps=5")
    with tempfile.TemporaryDirectory() as scratch:
        whole, killed = Path(scratch, "whole"), Path(scratch, "killed")
        call.command(whole, *line)
        call.command(killed, *line, kill=True)
        call.command(killed, f"resume={killed}")
        first, second = (
            torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
            for folder in (whole, killed)
        )
    names = [name for name, value in first.items() if value.is_floating_point() and not name.startswith("means.")]
    worst = max(float((first[n] - second[n]).norm() / first[n].norm().clamp(min=1e-12)) for n in names)
    return {"largest_relative_difference": worst, "bit_identical": worst == 0.0}


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes that a job has started for its further ranks."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in found if b"fragrecon.jobs.train" in Path("/proc", pid, "cmdline").read_bytes()]


def killed_rank(call: Call, line: Sequence[str], folder: Path) -> dict[str, Any]:
    """Kill the last rank of a job in training; return the job's exit code, and the seconds until it ended.

    Raises:
        RuntimeError: the job did not train, or did not end in time.
    """
    process = subprocess.Popen([sys.executable, "-m", "fragrecon.run", *line, f"hydra.run.dir={folder}"])
    try:
        while not (folder / "checkpoints" / "last.ckpt").is_file():
            if process.poll() is not None or time.monotonic() > call.end:
                raise RuntimeError("the job of which a process was to be killed did not train")
            time.sleep(0.02)
        os.kill(children_of(process)[-1], signal.SIGKILL)
        started = time.perf_counter()
        try:
            code = process.wait(max(1.0, call.end - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise RuntimeError("the job did not end after one of its processes was killed") from None
        return {"exit_code_after_kill": code, "seconds_after_kill": time.perf_counter() - started}
    finally:
        process.kill()


def together(call: Call) -> dict[str, Any]:
    """Training by a process for each GPU, or by two on the CPU if there are fewer than two; and with one killed."""
    gpus = torch.cuda.device_count()
    by = [f"trainer.devices={gpus}", "trainer.strategy=ddp"] if gpus > 1 else ["trainer=ddp_cpu"]
    puzzles = max(2, gpus)
    with tempfile.TemporaryDirectory() as scratch:
        line = [*call.overrides("conv", puzzles), *SHORT, "data.batches_per_epoch=4"]
        if gpus < 2:
            line.remove("trainer=auto")
        found = {"seconds": call.command(Path(scratch, "run"), *line, *by)}
        line += ["data.epochs=1000", "trainer.checkpoint_every_n_steps=1"]
        found |= killed_rank(call, [*line, *by], Path(scratch, "killed"))
    return {"processes": max(2, gpus), "device": "cuda" if gpus > 1 else "cpu", **found}


PARTS: dict[str, Callable[[Call], dict[str, Any]]] = {
    "smoke": smoke,
    "clustering": clustering,
    "data_path": data_path,
    "sprint": sprint,
    "resume": resume,
    "together": together,
    "bench": bench,
    "rates": rates,
}
"""The functions of all parts, by name, in the order in which they run."""


def main(arguments: Sequence[str]) -> dict[str, str]:
    """Run the parts that are not done yet, print a table, and return the outcome of each part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tiny", action="store_true")
    given, data = parser.parse_known_args(arguments)
    call = Call(data, given.tiny, time.monotonic() + given.seconds)
    device, outcomes = hardware.device_of(compose(["trainer=auto"]).trainer), dict[str, str]()
    for name in given.parts:
        path = given.out / f"{name}.json"
        if path.is_file():
            outcomes[name] = "done before"
        elif time.monotonic() > call.end:
            outcomes[name] = "no time left: repeat the command"
        else:
            started = time.perf_counter()
            try:
                result = PARTS[name](call)
            except NotPossibleError as error:
                outcomes[name] = str(error)
            except Exception as error:  # the other parts are worth having
                outcomes[name] = f"failed: {type(error).__name__}: {error}".partition("\n")[0]
            else:
                facts = {"machine": machine(device), "versions": versions(), "date": time.strftime("%Y-%m-%d")}
                seconds = time.perf_counter() - started
                files.write_json(path, {**result, **facts, "part_seconds": seconds})
                outcomes[name] = f"done in {seconds:.0f} s"
    table = Table("part", "outcome", "figures", box=box.SIMPLE_HEAD)
    for name, outcome in outcomes.items():
        path = given.out / f"{name}.json"
        shown = files.read_json(path) if path.is_file() else {}
        figures = [f"{key} {value:.4g}" for key, value in shown.items() if isinstance(value, (int, float))]
        table.add_row(name, outcome, ", ".join([*figures, *filter(None, [shown.get("not_done")])]))
    console = Console()
    console.print(table)
    for row in files.read_json(given.out / "rates.json")["rows"] if (given.out / "rates.json").is_file() else []:
        ended = f"{row['puzzles_a_second']:.1f} puzzles/s, {row['share_of_peak']:.1%}" if "steps" in row else row
        console.print(f"{row['model']}, {row['puzzles']} puzzles{', compiled' * row['compiled']}: {ended}")
    return outcomes


if __name__ == "__main__":
    main(sys.argv[1:])
