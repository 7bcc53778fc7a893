"""Decoded photos that live on the device which trains: moved once, drawn from by index there.

A GPU that waits for pixels over the bus stands idle. Where a store takes no more than a share of the memory that
is free, it is moved whole; a network, its moments and its activations keep the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

from fewsight.data.store import PixelStore

__all__ = ["ResidentPhotos", "fits", "free_memory"]

SHARE = 0.3  # of the free memory of a device that photos may take
BLOCK_BYTES = 256 << 20  # moved at a time


class ResidentPhotos:
    """The photos of a store on a device; `rows` gives what the store gives, there.

    Args:
        store: is read once, and not needed after that.
        device: of the training.
    """

    def __init__(self, store: PixelStore, device: torch.device | str) -> None:
        N, H, W, _ = store.pixels.shape
        self.pixels = torch.empty((N, H, W, 3), dtype=torch.uint8, device=device)
        step = max(1, BLOCK_BYTES // max(1, 3 * H * W))
        for first in range(0, N, step):
            block = numpy.array(
                store.pixels[first : first + step]
            )  # a copy: torch wants pages it may write to
            self.pixels[first : first + step] = torch.from_numpy(block).to(self.pixels.device)

    def __len__(self) -> int:
        return len(self.pixels)

    def rows(self, index: Sequence[int] | numpy.ndarray) -> Tensor:
        """uint8 `[B, 3, H, W]` of some photos on the device, in the order of `index`."""
        chosen = torch.as_tensor(numpy.asarray(index), device=self.pixels.device)
        return self.pixels.index_select(0, chosen).permute(0, 3, 1, 2)


def fits(size: int, free: int | None) -> bool:
    """Whether so many bytes of photos may live where `free` bytes are free (None: nobody knows).

    >>> fits(2 << 30, 16 << 30), fits(12 << 30, 16 << 30), fits(1, None)
    (True, False, False)
    """
    return free is not None and size <= SHARE * free


def free_memory(device: torch.device | str) -> int | None:
    """Bytes that are free on a GPU; None for the processor, whose memory the store's pages share anyway."""
    place = torch.device(device)
    if place.type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(place)[0])
