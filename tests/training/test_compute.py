from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fragrecon.config.schema import ComputeConfig
from fragrecon.data.puzzles import FragmentBatch
from fragrecon.errors import ConfigError
from fragrecon.models import base
from fragrecon.models.base import FragmentModel
from fragrecon.objectives.base import Objective
from fragrecon.run import compose
from fragrecon.runs.modules import Facts, build_model
from fragrecon.training.compute import METHODS, blocks, compiling, prepare
from tests.cli import SMALL, assert_same_run, assert_same_weights, job, rows, weights

SETTINGS = {
    "cnn_v3_tiny": ["model.channel_config=[16,16]", "model.block_config=[resnext,se]", "model.use_attention=true"],
    "conv": ["model.encoder_channels=[8,16]"],
    "energy_transformer": ["model.latent_dim=32", "model.heads=2", "model.head_width=16"],
    "linear": ["model.hidden=[32]", "model.dropout=0.3"],
    "mae": ["model.latent_dim=24", "model.depth=4", "model.decoder_width=12"],
    "mosaic": ["model.width=32", "model.heads=4", "model.depth=3"],
    "resnet_ae": ["model.width=4"],
    "resnet_vae": ["model.width=4"],
    "siamese": ["model.channels=[4,4,4]", "model.hidden=8"],
    "simclr": ["model.encoder_channels=[8,16]", "model.hidden=16"],
    "supervised": ["model.hidden=[32]"],
    "vae": ["model.encoder_channels=[8,16]"],
}
"""Small models of every kind."""

every_model = pytest.mark.parametrize("name", sorted(SETTINGS))


def made(name: str, *settings: str) -> tuple[FragmentModel, Objective]:
    config = compose([f"model={name}", *SETTINGS[name], *settings])
    model, objective = build_model(config, Facts((3, 16, 16), (2, 2), 5))
    return model.train(), objective.train()


def batch(dtype: torch.dtype = torch.float32, puzzles: int = 2, images: int = 4) -> FragmentBatch:
    random = torch.Generator().manual_seed(0)
    ids = torch.arange(images * 4).expand(puzzles, -1)
    return FragmentBatch(
        fragments=torch.rand(puzzles, images * 4, 3, 16, 16, generator=random).to(dtype),
        source_ids=ids // 4,
        positions=ids % 4,
        rotations=torch.zeros_like(ids),
        labels=ids // 4,
        image_ids=torch.arange(puzzles * images).view(puzzles, images),
    )


def step(model: FragmentModel, objective: Objective, of: FragmentBatch) -> dict[str, Tensor]:
    """Everything that a training step leaves: the loss, gradients, weights and buffers, and the random state."""
    torch.manual_seed(3)
    loss = objective(model, of, torch.Generator().manual_seed(4))["loss"]
    loss.backward()
    found = {"loss": loss.detach(), "random": torch.get_rng_state()}
    found |= {f"gradient of {key}": value.grad for key, value in model.named_parameters() if value.grad is not None}
    return found | {key: value.clone() for key, value in model.state_dict().items()}


class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up the bytes of all tensors that are made within it, and live; ``peak`` is the most there were."""

    def __init__(self, there: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self.live = {tensor.untyped_storage()._cdata: 0 for tensor in there}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self.freed, storage._cdata)
        return result

    def freed(self, storage: int) -> None:
        self.now -= self.live.pop(storage)


def peak(name: str, compute: ComputeConfig) -> int:
    """The most bytes that a step makes besides weights, gradients and the batch."""
    (model, objective), puzzles = made(name), batch()
    prepare(model, compute)
    step(model, objective, puzzles)  # leaves gradients, which are then there
    there = [*model.parameters(), *model.buffers(), puzzles.fragments]
    there += [value.grad for value in model.parameters() if value.grad is not None]
    with Memory(there) as memory:
        objective(model, puzzles, torch.Generator().manual_seed(4))["loss"].backward()
    return int(memory.peak)


# Gradient checkpointing -----------------------------------------------------------------------------------------------

RECOMPUTE = ComputeConfig(gradient_checkpointing=True)


@every_model
def test_a_step_is_the_same_by_recomputation_to_the_last_bit_and_in_the_format_but_for_rounding(name: str) -> None:
    plain = step(*made(name), batch())
    model, objective = made(name)
    prepare(model, RECOMPUTE)
    again = step(model, objective, batch())
    assert list(plain) == list(again)
    for key, value in plain.items():
        assert torch.equal(value, again[key]), key
    model, objective = made(name)
    prepare(model, ComputeConfig(channels_last=True))
    found = step(model, objective, batch())
    assert list(plain) == list(found)
    torch.testing.assert_close(found["loss"], plain["loss"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("name", "share"), [("conv", 0.8), ("resnet_ae", 0.4), ("energy_transformer", 0.2), ("mae", 0.6)]
)
def test_recomputation_takes_less_memory(name: str, share: float) -> None:
    assert peak(name, RECOMPUTE) < share * peak(name, ComputeConfig())


@pytest.mark.parametrize(
    ("name", "layer"),
    [("conv", "encoder.0.0.0"), ("energy_transformer", "blocks.0.norm"), ("mae", "encoder.layers.0.norm1")],
)
def test_what_is_recomputed_runs_once_more_in_training_and_not_in_evaluation(name: str, layer: str) -> None:
    model, objective = made(name)
    calls: list[int] = []
    model.get_submodule(layer).register_forward_hook(lambda *_: calls.append(1))
    step(model, objective, batch())
    plain = len(calls)
    calls.clear()
    prepare(model, RECOMPUTE)
    step(model, objective, batch())
    assert len(calls) == 2 * plain > 0
    calls.clear()
    with torch.no_grad():
        objective(model.eval(), batch(), torch.Generator().manual_seed(4))
    assert len(calls) == plain


@every_model
def test_blocks_lie_side_by_side_and_hold_most_of_what_is_computed(name: str) -> None:
    model, _ = made(name)
    found = list(blocks(model))
    inside = [module for block in found for module in block.modules()]
    assert len({id(module) for module in inside}) == len(inside)
    assert len(found) > 1 or name == "energy_transformer"
    assert all(list(block.children()) for block in found)


def test_blocks_of_a_sequence_of_stages_are_the_stages() -> None:
    stage = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    deep = nn.Sequential(nn.Sequential(stage, nn.ReLU()), nn.Flatten(), nn.Linear(2, 2))
    layers = nn.ModuleList([nn.TransformerEncoderLayer(4, 1), nn.TransformerEncoderLayer(4, 1)])
    whole = nn.ModuleDict({"deep": deep, "layers": layers, "plain": stage, "none": nn.Sequential(nn.ReLU())})
    assert list(blocks(whole)) == [deep[0], *layers, stage]


def test_buffers_on_another_device_are_looked_after_too() -> None:
    """A model is moved after it is prepared, which makes its buffers anew."""
    model, objective = made("conv")
    prepare(model, RECOMPUTE)
    model.double()
    plain, _ = made("conv")
    plain.double()
    found, wanted = (step(of, objective, batch(torch.float64)) for of in (model, plain))
    assert all(torch.equal(value, found[key]) for key, value in wanted.items())


# Memory format --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "resnet_ae", "siamese", "simclr"])
def test_the_format_changes_nothing_but_by_rounding(name: str) -> None:
    """Seen in double precision: in single, rectifiers here and there let pass what they stopped before."""
    (plain, objective), (model, _) = made(name), made(name)
    prepare(model, ComputeConfig(channels_last=True))
    wanted, found = (step(each.double(), objective, batch(torch.float64)) for each in (plain, model))
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ["conv", "resnet_ae"])
def test_all_that_is_convolved_is_in_the_format(name: str) -> None:
    def seen(compute: ComputeConfig) -> list[bool]:
        model, objective = made(name)
        prepare(model, compute)
        formats: list[bool] = []
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(
                    lambda module, inputs, output: formats.append(
                        output.is_contiguous(memory_format=torch.channels_last)
                        and module.weight.is_contiguous(memory_format=torch.channels_last)
                    )
                )
        step(model, objective, batch())
        return formats

    assert all(seen(ComputeConfig(channels_last=True)))
    assert not any(seen(ComputeConfig()))


# Compilation ----------------------------------------------------------------------------------------------------------


def test_methods_are_those_by_which_models_are_trained() -> None:
    named = {name for kind in vars(base).values() if isinstance(kind, type) for name in vars(kind)}
    assert set(METHODS) <= named


@pytest.mark.slow
def test_a_compiled_step_is_the_same_but_for_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    small = ["model.encoder_channels=[4]", "model.latent_dim=6"]
    plain = step(*made("conv", *small), batch())
    model, objective = made("conv", *small)
    prepare(model, ComputeConfig("default", channels_last=True, gradient_checkpointing=True))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    found = step(model, objective, batch())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # encode and decode, each in one piece
    assert list(plain) == list(found)
    for key, value in plain.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-6)


def test_a_missing_compiler_is_refused_with_what_to_do(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/cxx"))
    torch._dynamo.reset()
    with pytest.raises(ConfigError, match=r"compute\.compile=default .*/nowhere/cxx.*compute\.compile=null"):
        job(tmp_path / "run", cache, *SMALL, "model=conv", "compute.compile=default", "model.encoder_channels=[4]")


def test_other_failures_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="mine"), compiling(ComputeConfig("default")):
        raise RuntimeError("mine")


def test_modes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"compute\.compile=.*'default'"):
        compose(["compute.compile=defualt"])


# As runs have it ------------------------------------------------------------------------------------------------------


AUTOENCODER = (*SMALL, "model=conv", "model.encoder_channels=[4,8]", "data.batches_per_epoch=7", "evaluation.puzzles=0")


def test_a_run_takes_its_options_and_leaves_what_one_without_them_does(tmp_path: Path, cache: Path) -> None:
    line = [*AUTOENCODER, "trainer.precision=32-true"]
    job(tmp_path / "plain", cache, *line)
    job(tmp_path / "recomputed", cache, *line, "compute.gradient_checkpointing=true")
    assert_same_run(tmp_path / "plain", tmp_path / "recomputed")
    job(tmp_path / "resumed", cache, *line, "data.epochs=1", "compute.channels_last=true")
    job(tmp_path / "resumed", cache, f"resume={tmp_path / 'resumed'}", "data.epochs=2", "compute.channels_last=false")
    one, other = (weights(tmp_path / name) for name in ("plain", "resumed"))
    assert list(one) == list(other)
    assert not all(torch.equal(value, other[key]) for key, value in one.items())  # and so the format was another
    for key, value in one.items():
        torch.testing.assert_close(other[key], value, rtol=1e-2, atol=1e-3)


def test_an_autoencoder_is_trained_by_all_options_and_goes_on_exactly(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    line = [
        *AUTOENCODER,
        "trainer.precision=bf16-mixed",
        "trainer.accumulate_grad_batches=3",
        "trainer.benchmark=true",
        "compute.gradient_checkpointing=true",
        "compute.channels_last=true",
        "objective.error={l1: 0.8, mse: 0.2}",
        "objective.bottleneck=0.01",
    ]
    job(tmp_path / "whole", cache, *line)
    assert torch.backends.cudnn.benchmark
    job(tmp_path / "resumed", cache, *line, "data.epochs=1")
    assert [row["step"] for row in rows(tmp_path / "resumed")] == ["3"]  # of 7 batches: 3, 3 and 1
    job(tmp_path / "resumed", cache, f"resume={tmp_path / 'resumed'}", "data.epochs=2")
    assert_same_weights(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert rows(tmp_path / "whole") == rows(tmp_path / "resumed")
    first, last = (float(row["train/error"]) for row in rows(tmp_path / "whole"))
    assert last < first


def test_a_schedule_ends_with_training_where_gradients_accumulate(tmp_path: Path, cache: Path) -> None:
    line = [*AUTOENCODER, "scheduler=cosine", "scheduler.warmup=0", "optimizer.lr=0.5", "data.epochs=3"]
    job(tmp_path / "run", cache, *line, "trainer.accumulate_grad_batches=4")
    found = [(int(row["step"]), float(row["lr"])) for row in rows(tmp_path / "run")]
    assert [done for done, _ in found] == [2, 4, 6]  # of 7 batches: 4 and 3
    for done, rate in found:
        assert rate == pytest.approx(0.25 * (1 + math.cos(math.pi * done / 6)), abs=1e-9)
