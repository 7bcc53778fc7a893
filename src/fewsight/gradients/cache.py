"""Exact gradients of a loss over many inputs, with at most a chunk of them in a graph (gradient caching).

Luyu Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", RepL4NLP 2021
(arXiv 2101.06983). Inputs are encoded without a graph, the loss gives the gradient of each representation, and each
chunk is encoded again to send its part back. One more forward pass; the memory of one chunk.

Gradient accumulation is not this: it averages losses that each see one chunk only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fewsight.errors import InvalidInput

__all__ = ["cached_backward"]


def cached_backward(
    encode: Callable[[Tensor], Tensor],
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    *,
    chunk: int,
    scale: float = 1.0,
) -> Tensor:
    """Add the exact gradient of `scale * loss(encode(inputs))` to the `.grad` of every parameter behind `encode`.

    Exact if an input's representation depends on that input alone: dropout is repeated with the same random numbers,
    but batch norm in training mode couples the inputs of a chunk. Parameters behind `loss` (a head) and tensors that
    it closes over get their gradients too. If `encode` or what it belongs to is wrapped in DistributedDataParallel,
    gradients are averaged once, with the last chunk.

    Args:
        encode: inputs `[m, ...]` -> representations `[m, ...]`.
        loss: representations `[M, ...]` of all inputs, in order -> scalar.
        inputs: `[M, ...]`; they get no gradient themselves.
        chunk: inputs in one graph at most.
        scale: multiplies the gradient, for gradient accumulation and loss scaling.

    Returns:
        The loss, detached and not scaled.

    Raises:
        InvalidInput: there is no input, the chunk is below 1, or the loss is not a scalar.
    """
    if chunk < 1:
        raise InvalidInput(f"chunk is {chunk}; expected at least 1 input.")
    if not inputs.ndim or not len(inputs):
        raise InvalidInput(f"inputs has shape {list(inputs.shape)}; expected at least one input [M, ...].")
    parts = torch.split(inputs.detach(), chunk)
    states, encoded = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_random_state(inputs.device))
            encoded.append(encode(part))
    after = _random_state(inputs.device)
    representations = torch.cat(encoded).requires_grad_()
    value = loss(representations)
    if value.numel() != 1:
        raise InvalidInput(f"loss gives shape {list(value.shape)}; expected a scalar.")
    (value * scale).backward()  # type: ignore[no-untyped-call]
    if representations.grad is not None:
        gradients = torch.split(representations.grad, chunk)
        for number, (part, state, gradient) in enumerate(zip(parts, states, gradients, strict=True)):
            last = number + 1 == len(parts)
            if not last and not gradient.any():  # LITE: nothing flows through these inputs
                continue
            with _restored(state, after), _gradients_together(encode, last=last):
                again = encode(part)
                if again.requires_grad:
                    again.backward(gradient.to(again.dtype))  # type: ignore[no-untyped-call]
    return value.detach()


RandomState = tuple[Tensor, Tensor | None]


def _random_state(device: torch.device) -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextlib.contextmanager
def _restored(state: RandomState, after: RandomState) -> Iterator[None]:
    """Random numbers as at `state`; on leaving as at `after`, as if nothing had been computed again."""
    _set_random_state(state)
    try:
        yield
    finally:
        _set_random_state(after)


def _set_random_state(state: RandomState) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def _gradients_together(encode: Any, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Hold back the averaging over processes until the last chunk."""
    owner = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    if last or not isinstance(owner, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext()
    return owner.no_sync()
