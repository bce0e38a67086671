"""Compute settings of a model: memory format, gradient checkpointing, compilation.

They change neither weights nor their names, so a checkpoint can be loaded under any settings.
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
"""Methods of models that objectives call."""

_KERNELS: dict[SDPBackend, Callable[[], bool]] = {
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
}


def prepare(model: FragmentModel, compute: ComputeConfig) -> None:
    """Apply the compute settings to a model, in place, after its weights are loaded and before its first use.

    * Channels last: convolutions convert their inputs to the memory format of their weights, so images need no change.
    * Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016): only the inputs of
      each of `blocks` are kept for the backward pass; blocks with a ``step`` method are checkpointed per step.
    * Compilation happens at the first call of a method, and again for new kinds of input, such as in evaluation.

    Args:
        model: model to change.
        compute: compute settings.
    """
    if compute.channels_last:
        cast(Any, model).to(memory_format=torch.channels_last)  # missing from its annotations
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
    """Turn a failure to compile the model within the block into a `ConfigError`."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise ConfigError(
            f"compute.compile={compute.compile} fails ({str(error).splitlines()[0]}); torch.compile needs a C++ "
            "compiler, or Triton on a GPU; use compute.compile=null to train without it"
        ) from error


def blocks(module: nn.Module, *, listed: bool = False) -> Iterator[nn.Module]:
    """Find the blocks of a model to checkpoint: composite members of a list or sequence, and sequences of layers.

    Args:
        module: module to search.
        listed: whether ``module`` is itself a sequence or list.

    Returns:
        Disjoint modules with parameters, each as large as possible.
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
    """Wrap a module's function so that the backward pass recomputes its intermediate results instead of keeping them.

    Random numbers and attention kernels are the same in both passes. Buffers, such as running means, are updated once.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(module, [kernel for kernel, is_enabled in _KERNELS.items() if is_enabled()])

    @wraps(function)
    def wrapped(*arguments: Any, **settings: Any) -> Any:
        if not torch.is_grad_enabled():
            return function(*arguments, **settings)
        if torch.compiler.is_compiling():  # the compiler handles all of this, and accepts no contexts
            return checkpoint(function, *arguments, use_reentrant=False, **settings)
        return checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts, **settings)

    return wrapped


@contextmanager
def _again(module: nn.Module, kernels: list[SDPBackend]) -> Iterator[None]:
    """Recompute within the block, with the attention kernels of the first pass and without changing buffers."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with sdpa_kernel(kernels):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)
