"""`train.compile`: the stretches of a block before and after its attention, fused by torch's compiler.

Owns what is compiled and for which shapes: once for all blocks and all shapes, from the configuration alone, so that a
run that is resumed computes with the same code. Attention, experts, the loss and the optimizer have kernels of their
own already. Weights and their names stay as they are. Nothing here is imported unless it is asked for: torch's compiler
takes two seconds.
"""

import inspect
import os
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from trainer.config import Config
from trainer.errors import BadConfiguration
from trainer.memory.kernels import causal_attention
from trainer.model.experts import Experts
from trainer.model.fused import repeat
from trainer.model.minimind import Block, MiniMind

ROWS, LENGTH = "rows", "length"  # what the sizes of different tensors are by


def compile_blocks(model: MiniMind, config: Config, device: torch.device) -> None:
    """Let the blocks of a model compute in compiled stretches from now on; BadConfiguration without a compiler."""
    check_compiler(device)
    _settle()
    stretches = Stretches(rows=config.batch_size, length=config.max_seq_len)
    for block in model.model.layers:
        block.compiled = stretches


def check_compiler(device: torch.device) -> None:
    """Refuse to begin where torch's compiler would fail at the first step."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise _missing("triton, which writes its kernels for this GPU, is not installed", "pip install triton")
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang", "cc"]
    else:
        compilers = [os.environ.get("CXX", "g++")]
    if not any(shutil.which(name) for name in compilers):
        names = ", ".join(compilers)
        raise _missing(f"torch's compiler needs one for C and C++, and there is no {names}", "apt install g++")


class Stretches:
    """Computes a block: compiled up to its attention, and from there on. `rows` and `length` are what to tune for."""

    def __init__(self, *, rows: int, length: int) -> None:
        self._hints = {ROWS: rows, LENGTH: length}
        self._before = torch.compile(_before, fullgraph=True, dynamic=False)
        self._between = torch.compile(_between, fullgraph=True, dynamic=False)
        self._after = torch.compile(_after, fullgraph=True, dynamic=False)

    def __call__(self, block: Block, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        self._any(x, ROWS, LENGTH)
        for table in (cos, sin):
            self._any(table, *((LENGTH,) if mask is None else (ROWS, LENGTH)))
        q, k, v = _asked(self._before, block, x, cos, sin)
        out = causal_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        self._any(out, ROWS, None, LENGTH)
        if isinstance(block.mlp, Experts):  # who gets which token is for data to say, which no compiler can know
            x, normed = _asked(self._between, block, x, out)
            return x + block.mlp(normed)
        return _asked(self._after, block, x, out)

    def _any(self, tensor: Tensor, *sizes: str | None) -> None:
        """Let these sizes of a tensor be any, one and zero included, in one and the same code."""
        for dimension, name in enumerate(sizes):
            if name is not None:
                torch._dynamo.decorators.mark_unbacked(
                    tensor, dimension, hint_override=self._hints[name], shape_id=name
                )


def _before(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attention = block.self_attn
    q, k, v = attention.project(block.input_layernorm(x), cos, sin)
    if attention.repeats > 1:
        k, v = repeat(k, attention.repeats), repeat(v, attention.repeats)
    return q, k, v


def _between(block: Block, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    x = x + block.self_attn.o_proj(out.transpose(1, 2).flatten(2))
    return x, block.post_attention_layernorm(x)


def _after(block: Block, x: Tensor, out: Tensor) -> Tensor:
    x, normed = _between(block, x, out)
    return x + block.mlp(normed)


def _settle() -> None:
    """Compile forward and backward at once, so that what fails does so at once; in this process, without others."""
    import torch._functorch.config
    import torch._inductor.config
    import torch._inductor.exc
    from torch._dynamo.decorators import mark_unbacked

    if "shape_id" not in inspect.signature(mark_unbacked).parameters:
        raise _missing(f"torch {torch.__version__} can't compile for any length at once (2.13 can)", "a newer torch")
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # it asks for that itself
    torch._functorch.config.force_non_lazy_backward_lowering = True
    torch._inductor.config.compile_threads = 1


def _asked(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what is compiled at its first call; BadConfiguration if torch's compiler fails at it.

    The counting of a CPU device is left out: it sees operators, of which few are left, and the compiler can't bear it.
    """
    try:
        with _disable_current_modes():
            return function(*arguments)
    except (torch._dynamo.exc.TorchDynamoException, torch._inductor.exc.InductorError) as error:
        reason = " ".join(str(error).partition("\n\n")[0].split())
        raise BadConfiguration(
            f"train.compile: torch's compiler failed: {reason}\nhint: train.compile: false"
        ) from error


def _missing(what: str, remedy: str) -> BadConfiguration:
    return BadConfiguration(f"train.compile: {what}\nhint: {remedy}, or train.compile: false")
