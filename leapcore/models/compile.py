"""torch.compile, block by block."""

from __future__ import annotations

from typing import Any

import torch

from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import SpecError

_VARIANTS = 64  # of one block's code: a width, a mode and a size of batch each; torch would stop at 8


def compile_blocks(provider: LayerFeatureProvider, device: torch.device) -> None:
    """From now on run each block of a backbone as code that torch.compile makes for it.

    Blocks that are alike share their code, and a target that moves through them compiles nothing anew.

    Args:
        provider: The backbone; the names of its weights stay as they are.
        device: Where it computes.

    Raises:
        SpecError: Nothing can be compiled on this machine.
    """
    _try_compiler(device)
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _VARIANTS)
    for layer in range(len(provider.layers)):
        block: Any = provider.block(layer)
        block.forward = torch.compile(block.forward, dynamic=False)


def _try_compiler(device: torch.device) -> None:
    try:
        torch.compile(torch.exp)(torch.ones(1, device=device))
    # It fails in as many ways as there are compilers.
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise SpecError(
            f"engine.compile: torch.compile does not work on this machine: {message}",
            "It needs a C++ compiler such as g++ on CPUs, and Triton on GPUs; or leave engine.compile out.",
        ) from error
