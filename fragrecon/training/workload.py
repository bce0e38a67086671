"""Time and memory of a model and its training step on random images, without a data set or Lightning's loop."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from fragrecon import machine as hardware
from fragrecon.config.build import build
from fragrecon.config.schema import Config, class_name
from fragrecon.data.batches import batches_per_step
from fragrecon.data.puzzles import FragmentBatch, make_batch
from fragrecon.errors import ConfigError
from fragrecon.evaluation.timing import Timing, operations, peak_memory, process_memory, time_of
from fragrecon.models.base import Decoder, FragmentModel, PairPredictor, Shape, Solver, count_parameters
from fragrecon.objectives.base import Objective
from fragrecon.objectives.contrastive import Contrastive
from fragrecon.objectives.masked import Masked
from fragrecon.objectives.pairs import Pairs
from fragrecon.runs.modules import Facts, build_model
from fragrecon.seeds import torch_generator
from fragrecon.training.compute import compiling, prepare

CLASSES = 10
"""Classes of the random images, for models and objectives that need labels."""


class Workload:
    """A model and a batch on their device, in the precision of the trainer.

    Args:
        config: configuration of model, objective, optimizer and trainer.
        images: batch size.

    Raises:
        ConfigError: the trainer's precision is not available.
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
        optimizer = build(config.optimizer, "optimizer", torch.optim.Optimizer, parameters)
        # The returned wrapper is not needed: Fabric moves and converts the modules themselves.
        _, self.optimizer = self.fabric.setup(self.modules, optimizer)
        self.batch = random_batch(facts.fragment_shape, images, config.seed).to(self.device)
        self.batch.fragments = self.batch.fragments.to(parameters[0].dtype)
        self.generator = torch_generator(config.seed, "bench", device=self.device)
        self.batches = batches_per_step(trainer.accumulate_grad_batches, 0)
        clip = trainer.gradient_clip_val
        by = "clip_val" if trainer.gradient_clip_algorithm == "value" else "max_norm"
        self.clip = {by: clip} if clip else {}

    @torch.no_grad()
    def forward(self) -> None:
        """Embed the batch and, if the model can, decode it again."""
        with self.fabric.autocast():
            forward(self.model, self.batch.fragments)

    def step(self) -> None:
        """Take an optimizer step, including all batches whose gradients it accumulates."""
        for _ in range(self.batches):
            with self.fabric.autocast():
                loss = self.objective(self.model, self.batch, self.generator)["loss"]
            self.fabric.backward(loss / self.batches)
        if self.clip:
            self.fabric.clip_gradients(self.modules, self.optimizer, **self.clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad()


def describe(config: Config, images: int) -> dict[str, Any]:
    """Describe a model: its size, and its operations in batches of ``images`` images.

    Raises:
        ConfigError: the model or its objective does not support single images, or not this batch size.
    """
    facts = facts_of(config)
    model, objective = build_model(config, facts)
    check_whole(config, model, objective)
    batch, generator = random_batch(facts.fragment_shape, images, config.seed), torch_generator(config.seed, "bench")
    try:
        training = operations(lambda: objective(model, batch, generator)["loss"].backward())
    except ValueError as error:  # such as that of batch norm for a single value
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


def measure(config: Config, images: int, threads: int) -> dict[str, Any]:
    """Measure the time and memory of batches that are already on the device.

    The memory is that of weights, gradients, optimizer state, the batch, and all activations.

    Args:
        config: configuration of the job.
        images: batch size.
        threads: number of threads on the CPU.

    Returns:
        A row of ``bench.json``.

    Raises:
        MemoryError: there is not enough memory.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):  # either may announce the precision
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
        for _ in range(2):  # the optimizer has all of its state only in the second step
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
            timings[use] = _per_batch(time_of(do, bench.seconds), batches)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            raise MemoryError(str(error).splitlines()[0].rpartition("DefaultCPUAllocator: ")[2]) from None
        raise
    row: dict[str, Any] = {"process_memory_bytes": process_memory(device)}
    for use, timing in timings.items():
        row[use] = {
            **asdict(timing),
            "ms_an_image": 1000 * timing.seconds / images,
            "images_a_second": images / timing.seconds,
            "memory_bytes": memory[use],
        }
    return row


def check_whole(config: Config, model: FragmentModel, objective: Objective) -> None:
    """Check that model and objective support single images, and use all images of a batch.

    Raises:
        ConfigError: they do not.
    """
    pairing = [part for part in objective.modules() if isinstance(part, (Contrastive, Pairs))]
    if pairing or isinstance(model, (Solver, PairPredictor)):
        reason = f"it is trained by {type(pairing[0]).__name__}" if pairing else "it takes all fragments of one"
        raise ConfigError(
            f"mode=bench times models on whole images, and {class_name(config)} is for puzzles: {reason}; choose a "
            "model such as model=conv, and an objective of single images"
        )
    mixes = [part.mix for part in objective.modules() if isinstance(part, Masked) and part.mix]
    assert config.bench
    if any(size % mix for size in config.bench.batch_sizes for mix in mixes):
        raise ConfigError(
            f"bench.batch_sizes={config.bench.batch_sizes} should be multiples of objective.mix={mixes[0]}, as the "
            "images of an incomplete group are dropped"
        )


def facts_of(config: Config) -> Facts:
    """Return the facts that the model is built from, for whole images of the data set."""
    return Facts(config.data.image_shape, grid=(1, 1), num_classes=CLASSES)


def random_batch(shape: Shape, images: int, seed: int) -> FragmentBatch:
    """Draw whole images of random pixels, one per puzzle."""
    generator = torch_generator(seed, "bench/images")
    pixels = torch.randint(256, (images, 1, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(CLASSES, (images, 1), generator=generator)
    single = torch.zeros(images, 1, dtype=torch.int64)
    return make_batch(pixels, labels, torch.arange(images).unsqueeze(1), single, shape[1:]).as_float()


def forward(model: FragmentModel, images: Tensor) -> Tensor:
    """Embed images (B, 1, C, H, W) and, if the model can, decode them again."""
    latents = model.encode(images)
    return model.decode(latents, (images.shape[-2], images.shape[-1])) if isinstance(model, Decoder) else latents


def _per_batch(timing: Timing, batches: int) -> Timing:
    """Divide the time of a step by its number of batches."""
    low, high = timing.quartiles
    return Timing(timing.seconds / batches, (low / batches, high / batches), timing.runs * batches)
