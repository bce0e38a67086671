"""``mode=bench``: how long a model takes, and how much memory, for batches of whole images; a table, a JSON and a plot.

Each size of a batch is measured by a process of its own. What came before then changes nothing, and where one is killed
for the memory it takes, the smaller sizes stand.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fragrecon import files
from fragrecon import machine as hardware
from fragrecon.config.build import build
from fragrecon.config.schema import Config, class_name
from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.errors import ConfigError
from fragrecon.evaluation.timing import Timing, operations, peak_memory, process_memory, time_of
from fragrecon.models.base import Decoder, FragmentModel, PairPredictor, Shape, Solver, count_parameters
from fragrecon.objectives.base import Objective
from fragrecon.objectives.contrastive import Contrastive
from fragrecon.objectives.masked import Masked
from fragrecon.objectives.pairs import Pairs
from fragrecon.progress import progress
from fragrecon.report.figures.bench import bench_figure, print_bench
from fragrecon.report.figures.puzzles import save
from fragrecon.runs.modules import Facts, build_model
from fragrecon.runs.write import FIGURES, Record, versions
from fragrecon.seeds import torch_generator
from fragrecon.training.compute import compiling, prepare

log = logging.getLogger(__name__)

BENCH = "bench.json"

CLASSES = 10
"""That the made-up images are of, where a model or an objective asks for some."""


def main(config: Config, record: Record) -> dict[str, Any]:
    """Measure each of ``config.bench.batch_sizes``; returns what ``bench.json`` holds."""
    assert config.bench
    device, sizes = hardware.device_of(config.trainer), sorted(set(config.bench.batch_sizes))
    model = described(config, sizes[0])
    rows, stopped = [], None
    with progress("measuring", len(sizes)) as advance:
        for size in sizes:
            log.info("batches of %d", size)
            try:
                rows.append({"batch_size": size, **alone(measure, config, size, torch.get_num_threads())})
            except MemoryError as error:
                stopped = f"batches of {size} need more memory than there is: {error}"
                break
            except BrokenProcessPool:
                stopped = (
                    f"batches of {size} had their process killed, as systems do with one that takes too much memory"
                )
                break
            advance(1)
    if not rows:
        raise ConfigError(f"{stopped}; set bench.batch_sizes lower")
    result = {
        "model": model,
        "settings": settings(config),
        "machine": machine(device),
        "rows": rows,
        "stopped": stopped,
        "versions": versions(),
    }
    files.write_json(record.folder / BENCH, result)
    path = record.folder / FIGURES / "bench.png"
    save(bench_figure(result), path)
    print_bench(result, record.folder)
    return result


def alone(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a function returns, or raises, in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def described(config: Config, images: int) -> dict[str, Any]:
    """What is measured: the model, its size, and its operations by batches of some images, computed on the CPU.

    Raises:
        ConfigError: the model, or what it is trained for, does not take whole images, or not these.
    """
    facts = facts_of(config)
    model, objective = build_model(config, facts)
    check_whole(config, model, objective)
    batch, generator = made_up(facts.fragment_shape, images, config.seed), torch_generator(config.seed, "bench")
    try:
        training = operations(lambda: objective(model, batch, generator)["loss"].backward())
    except ValueError as error:  # as batch norm has it of a single value
        raise ConfigError(
            f"{class_name(config)} cannot be trained in batches of {images}: {error}; set bench.batch_sizes higher"
        ) from None
    return {
        "name": class_name(config),
        "image_shape": list(facts.fragment_shape),
        "latent_dim": model.latent_dim,
        "parameters": count_parameters(model),
        "forward": "encode and decode" if isinstance(model, Decoder) else "encode",
        "forward_gflop_an_image": operations(lambda: forward(model.eval(), batch.fragments)) / images / 1e9,
        "training_gflop_an_image": training / images / 1e9,
    }


def facts_of(config: Config) -> Facts:
    return Facts(config.data.image_shape, grid=(1, 1), num_classes=CLASSES)


def check_whole(config: Config, model: FragmentModel, objective: Objective) -> None:
    """Refuse what needs puzzles, and sizes of batches that would not be used whole; raises `ConfigError`."""
    puzzling = [part for part in objective.modules() if isinstance(part, (Contrastive, Pairs))]
    if puzzling or isinstance(model, (Solver, PairPredictor)):
        what = f"it is trained by {type(puzzling[0]).__name__}" if puzzling else "it sees all fragments of one"
        raise ConfigError(
            f"mode=bench times models on whole images, and {class_name(config)} is for puzzles: {what}; choose a model "
            "such as model=conv, and an objective of single images"
        )
    mixes = [part.mix for part in objective.modules() if isinstance(part, Masked) and part.mix]
    assert config.bench
    for size in config.bench.batch_sizes:
        if any(size % mix for mix in mixes):
            raise ConfigError(
                f"bench.batch_sizes={config.bench.batch_sizes} should be multiples of objective.mix={mixes[0]}, as "
                "images that make no whole group are left out"
            )


def made_up(shape: Shape, images: int, seed: int) -> FragmentBatch:
    """Noise as a batch of whole images, each by itself."""
    generator = torch_generator(seed, "bench/images")
    pixels = torch.randint(256, (images, 1, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (images, 1), generator=generator)
    single = torch.zeros(images, 1, dtype=torch.int64)
    return make_batch(pixels, labels, torch.arange(images).unsqueeze(1), single, shape[1:]).as_float()


def forward(model: FragmentModel, images: Tensor) -> Tensor:
    """Images (B, 1, C, H, W) embedded, and decoded again by a model that can."""
    latents = model.encode(images)
    return model.decode(latents, (images.shape[-2], images.shape[-1])) if isinstance(model, Decoder) else latents


class Workload:
    """A model and a batch on their device, in the arithmetic of the trainer.

    Args:
        config: of model, objective, optimizer and trainer.
        images: in a batch.
    """

    def __init__(self, config: Config, images: int) -> None:
        trainer, facts = config.trainer, facts_of(config)
        self.device = hardware.device_of(trainer)
        if trainer.benchmark is not None:
            torch.backends.cudnn.benchmark = bool(trainer.benchmark)
        precision: Any = hardware.precision_of(trainer)
        try:
            self.fabric = Fabric(accelerator=self.device.type, devices=1, precision=precision)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"trainer: {error}") from error
        self.model, self.objective = build_model(config, facts)
        prepare(self.model, config.compute)
        self.modules = nn.ModuleList([self.model, self.objective])
        parameters = [parameter for parameter in self.modules.parameters() if parameter.requires_grad]
        # What Fabric returns would be called; the modules within are now where, and of the type, that they should be.
        _, self.optimizer = self.fabric.setup(self.modules, build(config.optimizer, "optimizer", parameters))
        self.batch = made_up(facts.fragment_shape, images, config.seed).to(self.device)
        self.batch.fragments = self.batch.fragments.to(parameters[0].dtype)
        self.generator = torch_generator(config.seed, "bench", device=self.device)
        self.batches = int(trainer.accumulate_grad_batches)
        clip = trainer.gradient_clip_val
        by = "clip_val" if trainer.gradient_clip_algorithm == "value" else "max_norm"
        self.clip = {by: clip} if clip else {}

    @torch.no_grad()
    def forward(self) -> None:
        with self.fabric.autocast():
            forward(self.model, self.batch.fragments)

    def step(self) -> None:
        """A whole step of the optimizer, on as many batches as it accumulates gradients of."""
        for _ in range(self.batches):
            with self.fabric.autocast():
                loss = self.objective(self.model, self.batch, self.generator)["loss"]
            self.fabric.backward(loss / self.batches)
        if self.clip:
            self.fabric.clip_gradients(self.modules, self.optimizer, **self.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(config: Config, images: int, threads: int) -> dict[str, Any]:
    """Time and memory of batches of some images, which lie on the device already.

    Memory is that of weights, gradients, state of the optimizer, the batch, and all that is computed from it.

    Raises:
        MemoryError: there is not enough.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # by one or the other, Fabric announces its arithmetic
        logging.getLogger(name).setLevel(logging.WARNING)
    torch.set_num_threads(threads)
    device, bench = hardware.device_of(config.trainer), config.bench
    assert bench

    def make() -> Workload:
        return Workload(config, images)

    def forward_once(work: Workload) -> None:
        work.modules.eval()
        work.forward()

    def train_twice(work: Workload) -> None:
        for _ in range(2):  # only in the second has the optimizer all of its state
            work.step()

    try:
        with compiling(config.compute):
            memory = {
                "forward": peak_memory(make, forward_once, device),
                "training": peak_memory(make, train_twice, device),
            }
        work = make()
        timings = {}
        for use, do, batches in (("forward", work.forward, 1), ("training", work.step, work.batches)):
            work.modules.train(use == "training")
            for _ in range(bench.warmup):
                do()
            timings[use] = _a_batch(time_of(do, bench.seconds), batches)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise MemoryError(str(error).splitlines()[0].rpartition("DefaultCPUAllocator: ")[2]) from None
        raise
    return {
        **{use: {**figures(timing, images), "memory_bytes": memory[use]} for use, timing in timings.items()},
        "process_memory_bytes": process_memory(device),
    }


def _a_batch(timing: Timing, batches: int) -> Timing:
    """Of a step that takes several batches, the share of one."""
    low, high = timing.quartiles
    return Timing(timing.seconds / batches, (low / batches, high / batches), timing.runs * batches)


def figures(timing: Timing, images: int) -> dict[str, Any]:
    """What follows from the time of a batch of some images."""
    return {
        **asdict(timing),
        "ms_an_image": 1000 * timing.seconds / images,
        "images_a_second": images / timing.seconds,
    }


def settings(config: Config) -> dict[str, Any]:
    """By which the model is computed and trained."""
    assert config.bench
    return {
        "precision": hardware.precision_of(config.trainer),
        "compute": asdict(config.compute),
        "objective": str(config.objective["_target_"]).rpartition(".")[2],
        "optimizer": str(config.optimizer["_target_"]).rpartition(".")[2],
        "accumulate_grad_batches": config.trainer.accumulate_grad_batches,
        "seconds": config.bench.seconds,
        "warmup": config.bench.warmup,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """On which it was measured."""
    processor = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}"
    return {
        "type": device.type,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
