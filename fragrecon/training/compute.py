"""How a model is computed, which changes no weight and none of their names: memory format, recomputation, compilation.

Checkpoints of a model that is computed one way open in one that is computed another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from fragrecon.config.schema import ComputeConfig
from fragrecon.errors import ConfigError
from fragrecon.models.base import FragmentModel

METHODS = ("encode", "decode", "posterior", "classify", "solve", "pair_logits", "predict", "unmix")
"""By which objectives have a model compute, where it has them."""

_KERNELS: dict[SDPBackend, Callable[[], bool]] = {
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
}


def prepare(model: FragmentModel, compute: ComputeConfig) -> None:
    """Have a model compute as it is told; to be called when its weights are in place, before it is used.

    In the channels-last format, all channels of a pixel lie together. Convolutions bring what they are given to the
    format of their weights, so images need no care.

    With gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016), nothing is kept
    of each of `blocks` but what goes in; of a block that repeats a ``step``, what goes into each.

    Compilation happens when a method is first called, and again for what it has not seen before, such as evaluation.
    """
    if compute.channels_last:
        cast(Any, model).to(memory_format=torch.channels_last)  # which its annotations leave out
    if compute.gradient_checkpointing:
        for block in blocks(model):
            name = "step" if hasattr(block, "step") else "forward"
            setattr(block, name, recomputed(getattr(block, name), block))
    if compute.compile is not None:
        for name in METHODS:
            if hasattr(model, name):
                setattr(model, name, torch.compile(getattr(model, name), mode=compute.compile))


@contextmanager
def compiling(compute: ComputeConfig) -> Iterator[None]:
    """Where a prepared model is first called: raises `ConfigError` if it cannot be compiled on this machine."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ConfigError(
            f"compute.compile={compute.compile} fails ({str(error).splitlines()[0]}); torch.compile needs a C++ "
            "compiler, or Triton on a GPU; compute.compile=null does without"
        ) from error


def blocks(module: nn.Module, *, listed: bool = False) -> Iterator[nn.Module]:
    """The largest parts with parameters that follow each other: what is made of others in a sequence or list of
    modules, and sequences of plain layers.
    """
    for child in module.children():
        parts = list(child.children())
        if not parts or next(child.parameters(), None) is None:
            continue
        plain = isinstance(child, nn.Sequential) and not any(next(part.children(), None) for part in parts)
        if listed or plain:
            yield child
        else:
            yield from blocks(child, listed=isinstance(child, (nn.Sequential, nn.ModuleList)))


def recomputed(function: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """A module's function, whose intermediate results are not kept for the backward pass but computed again in it.

    Random numbers are drawn alike both times, attention goes by the same kernels, and the module's buffers, such as
    running means, change the first time only.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(module, [kernel for kernel, is_enabled in _KERNELS.items() if is_enabled()])

    @wraps(function)
    def wrapped(*arguments: Any, **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*arguments, **settings)
        if torch.compiler.is_compiling():  # a compiler sees to all of this, and takes no contexts but its own
            return checkpoint(function, *arguments, use_reentrant=False, **settings)
        return checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts, **settings)

    return wrapped


@contextmanager
def _again(module: nn.Module, kernels: list[SDPBackend]) -> Iterator[None]:
    """Where something is computed a second time, in the backward pass and so outside what was around the first."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with sdpa_kernel(kernels):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
