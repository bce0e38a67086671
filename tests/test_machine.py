from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from fragrecon import machine as hardware
from fragrecon.config.schema import TrainerConfig
from fragrecon.errors import ConfigError
from fragrecon.run import compose

Machine = Callable[..., None]
CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


def trainer(changes: dict[str, Any]) -> TrainerConfig:
    return replace(compose([]).trainer, **changes)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Makes this machine out to be another."""

    def pretend(
        cuda: bool = False,
        mps: bool = False,
        cuda_bfloat16: bool = False,
        avx512: bool = False,
        amx: bool = False,
        emulated: bool = True,
    ) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return cuda_bfloat16 or (including_emulation and emulated)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)

    return pretend


@pytest.mark.parametrize(
    ("accelerator", "cuda", "mps", "device"),
    [
        ("cpu", False, False, CPU),
        ("cpu", True, True, CPU),
        ("gpu", True, False, CUDA),
        ("cuda", True, False, CUDA),
        ("mps", False, True, MPS),
        ("auto", False, False, CPU),
        ("auto", True, False, CUDA),
        ("auto", False, True, MPS),
    ],
)
def test_scores_are_computed_where_training_runs(
    accelerator: str, cuda: bool, mps: bool, device: torch.device, machine: Machine
) -> None:
    machine(cuda=cuda, mps=mps)
    assert hardware.device_of(trainer({"accelerator": accelerator})) == device


@pytest.mark.parametrize(
    ("device", "has", "expected"),
    [
        (CPU, {}, False),
        (CPU, {"avx512": True}, True),
        (CPU, {"amx": True}, True),
        (CPU, {"cuda": True, "cuda_bfloat16": True}, False),
        (CUDA, {"cuda": True, "cuda_bfloat16": True}, True),
        (CUDA, {"cuda": True, "emulated": True, "amx": True}, False),
        (MPS, {"mps": True, "amx": True}, False),
    ],
)
def test_bfloat16_counts_only_with_units_of_its_own(
    device: torch.device, has: dict[str, bool], expected: bool, machine: Machine
) -> None:
    machine(**has)
    assert hardware.has_bfloat16(device) is expected


@pytest.mark.parametrize(("amx", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_bfloat16_where_the_machine_has_it(amx: bool, precision: str, machine: Machine) -> None:
    machine(amx=amx)
    assert hardware.precision_of(trainer({"accelerator": "cpu", "precision": "auto"})) == precision


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed", 32, "64"])
def test_a_precision_that_is_given_is_kept(precision: str | int, machine: Machine) -> None:
    for amx in (True, False):
        machine(amx=amx)
        assert hardware.precision_of(trainer({"accelerator": "cpu", "precision": precision})) == str(precision)


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "abacus"])
def test_a_device_that_is_not_there_is_refused(accelerator: str, machine: Machine) -> None:
    machine()
    with pytest.raises(ConfigError, match=rf"trainer\.accelerator={accelerator} .*trainer=cpu"):
        hardware.device_of(trainer({"accelerator": accelerator}))


def test_the_log_says_where_and_in_which_arithmetic(machine: Machine) -> None:
    machine(amx=True)
    text = hardware.describe(trainer({"accelerator": "cpu", "precision": "auto"}))
    assert text.startswith(f"cpu, {torch.get_num_threads()} thread")
    assert "; it has bfloat16 units; training in bfloat16 autocast" in text
    machine()
    text = hardware.describe(trainer({"accelerator": "cpu", "precision": "auto"}))
    assert "it has no bfloat16 units; training in 32-true" in text
    machine(cuda=True, cuda_bfloat16=True)
    text = hardware.describe(trainer({"accelerator": "auto", "precision": "16-mixed"}))
    assert text.startswith("Some GPU; it has bfloat16 units; training in 16-mixed")


def test_this_machine_can_be_described() -> None:
    assert hardware.describe(compose([]).trainer)
