"""Masks for masked image modelling, as functions of given random draws. 1 = masked everywhere.

    random_mask    MAE: the lowest noise is kept                    He et al. (CVPR 2022), section 3
    grid_mask      SimMIM: squares of 32 px                         Xie et al. (CVPR 2022), section 3.2
    block_mask     BEiT, iBOT: rectangles of patches                Bao et al. (ICLR 2022), algorithm 1
    gmml_corrupt   GMML, MC-SSL: rectangles of pixels, overwritten  Atito et al. (arXiv 2205.14986)

Nothing here draws by itself but `block_masks` and `gmml_masks`, which take a generator of `fewsight.seeding`.

Differs from the authors' code: images need not be square; a request that cannot be met raises in place of an
endless loop or a crash; draws never come from, or reset, a global generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.objectives.ranges import check_positive, check_within, whole, whole_pair
from fewsight.shapes import check_shapes

__all__ = [
    "Corruption",
    "RandomMask",
    "block_mask",
    "block_masks",
    "gmml_corrupt",
    "gmml_mask",
    "gmml_masks",
    "grid_mask",
    "other_image",
    "patch_mask",
    "patchify",
    "random_mask",
    "unpatchify",
]

# A mask that needs more blocks than this cannot be drawn: parts of the picture are out of reach.
MAX_BLOCKS = 100_000

Draws = Tensor | Iterable[Sequence[float]]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images `[B, C, H, W]` into patches `[B, (H/p) (W/p), p p C]`.

    Patches run row by row; inside a patch the order is row, column, channel (channel fastest). The weight of a
    patch-embedding convolution is ordered channel, row, column instead.

    Raises:
        InvalidInput: sides that `patch_size` does not divide.

    >>> patchify(torch.arange(8.0).view(1, 2, 2, 2), 2)
    tensor([[[0., 4., 1., 5., 2., 6., 3., 7.]]])
    """
    check_shapes(images=(images, "B C H W"))
    B, C, H, W = images.shape
    p = whole(patch_size, "patch_size")
    if H % p or W % p or not H or not W:
        raise InvalidInput(f"images are {H} x {W} pixels; expected sides that patch_size {p} divides.")
    patches = images.reshape(B, C, H // p, p, W // p, p).permute(0, 2, 4, 3, 5, 1)  # [B, h, w, p, p, C]
    return patches.reshape(B, (H // p) * (W // p), p * p * C)


def unpatchify(patches: Tensor, patch_size: int, grid_size: tuple[int, int]) -> Tensor:
    """The exact inverse of `patchify`: `[B, h w, p p C]` -> `[B, C, h p, w p]`, for `grid_size` (h, w).

    Raises:
        InvalidInput: a number of patches or of values that does not fit.
    """
    check_shapes(patches=(patches, "B L V"))
    B, L, V = patches.shape
    p, (h, w) = whole(patch_size, "patch_size"), whole_pair(grid_size, "grid_size")
    if h * w != L or V % (p * p):
        raise InvalidInput(
            f"patches has shape {list(patches.shape)}; expected {h} * {w} patches of {p} * {p} * C values."
        )
    images = patches.reshape(B, h, w, p, p, -1).permute(0, 5, 1, 3, 2, 4)  # [B, C, h, p, w, p]
    return images.reshape(B, -1, h * p, w * p)


class RandomMask(NamedTuple):
    """What MAE's random masking gives.

    Attributes:
        ids_keep: int `[B, K]`, kept patches in shuffled order.
        mask: `[B, L]` in raster order, 1 = masked.
        ids_restore: int `[B, L]`, place of each raster patch in shuffled order (kept ones first).
    """

    ids_keep: Tensor
    mask: Tensor
    ids_restore: Tensor


def random_mask(noise: Tensor, mask_ratio: float) -> RandomMask:
    """Keep the `int(L (1 - mask_ratio))` patches of lowest noise of each image.

    With ratio 0 all patches are kept, but still shuffled.

    Args:
        noise: `[B, L]`, usually uniform in [0, 1); ties keep their order.
        mask_ratio: from 0 to below 1.

    Raises:
        InvalidInput: a ratio out of range or one that keeps no patch.

    >>> random_mask(torch.tensor([[0.3, 0.1, 0.2, 0.9]]), 0.5).mask
    tensor([[1., 0., 0., 1.]])
    """
    L = check_shapes(noise=(noise, "B L"))["L"]
    check_within(0, 1, mask_ratio=mask_ratio)
    kept = int(L * (1 - mask_ratio))
    if kept < 1:
        raise InvalidInput(
            f"mask_ratio is {mask_ratio} with {L} patches; expected a ratio that keeps at least one."
        )
    ids_shuffle = torch.argsort(noise, dim=1, stable=True)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    return RandomMask(ids_shuffle[:, :kept], (ids_restore >= kept).float(), ids_restore)


def grid_mask(
    permutation: Tensor, input_size: int, mask_patch_size: int, model_patch_size: int, mask_ratio: float
) -> Tensor:
    """SimMIM's mask: the first `ceil(ratio G G)` squares of a permutation, at the resolution of the tokens.

    Args:
        permutation: int `[G G]`, G = input_size / mask_patch_size squares a side.
        input_size, mask_patch_size, model_patch_size: pixels; each divides the one before it.
        mask_ratio: from 0 to 1.

    Returns:
        int `[input_size / model_patch_size] * 2`, 1 = masked.

    Raises:
        InvalidInput: sizes that do not divide, a permutation of another length.
    """
    check_within(0, 1, mask_ratio=mask_ratio)
    sizes = {
        "input_size": input_size,
        "mask_patch_size": mask_patch_size,
        "model_patch_size": model_patch_size,
    }
    input_size, mask_patch_size, model_patch_size = (whole(size, name) for name, size in sizes.items())
    if input_size % mask_patch_size or mask_patch_size % model_patch_size:
        raise InvalidInput(
            f"input_size {input_size}, mask_patch_size {mask_patch_size} and model_patch_size "
            f"{model_patch_size} do not divide; expected each to divide the one before it."
        )
    G, repeats = input_size // mask_patch_size, mask_patch_size // model_patch_size
    if permutation.shape != (G * G,) or not torch.equal(
        permutation.sort().values.cpu(), torch.arange(G * G, dtype=permutation.dtype)
    ):
        raise InvalidInput(
            f"permutation has shape {list(permutation.shape)}; expected 0 to {G * G - 1}, each once."
        )
    cells = torch.zeros(G * G, dtype=torch.int64, device=permutation.device)
    cells[permutation[: math.ceil(G * G * mask_ratio)]] = 1
    return cells.view(G, G).repeat_interleave(repeats, dim=0).repeat_interleave(repeats, dim=1)


def block_mask(
    grid_size: tuple[int, int],
    target_count: float,
    min_patches: int,
    max_patches: int | None,
    aspect: tuple[float, float],
    draws: Draws,
) -> Tensor:
    """Rectangles of patches until `target_count` are masked, or ten attempts in a row place none.

    BEiT: target 75 of 196, min_patches 16. iBOT: target `ratio h w` as a real number, min_patches
    `(min(h, w) // 3)^2`, which may exceed the room that is left. No block is as wide or high as the grid.

    Args:
        grid_size: (h, w) in patches.
        target_count: patches to mask at most; not rounded.
        min_patches, max_patches: area of a block before rounding; None = no upper bound but the room left.
        aspect: lowest and highest height / width.
        draws: `[n, 4]` uniforms in [0, 1), a row (area, log aspect, top, left) for each attempt; or rows from
            an endless iterator. With fewer rows than attempts the mask ends at the last row.

    Returns:
        int `[h, w]`, 1 = masked; on the CPU.

    Raises:
        InvalidInput: a grid, target or aspect out of range.
    """
    h, w = whole_pair(grid_size, "grid_size")
    low, high = (float(bound) for bound in aspect)
    check_positive(aspect_low=low, aspect_high=high, min_patches=min_patches)
    check_within(0, h * w, target_count=target_count)
    if max_patches is not None:
        check_positive(max_patches=max_patches)
    if low > high:
        raise InvalidInput(f"aspect is {(low, high)}; expected the lower bound first.")
    mask = numpy.zeros((h, w), dtype=numpy.int64)
    failures, rows = 0, _rows(draws)
    while (room := target_count - int(mask.sum())) > 0 and failures < 10 and (row := next(rows, None)):
        room = room if max_patches is None else min(room, max_patches)
        block = _block(row, (h, w), (min_patches, room), (low, high))
        fresh = 0 if block is None else mask[block].size - int(mask[block].sum())
        if block is not None and 0 < fresh <= room:
            mask[block], failures = 1, 0
        else:
            failures += 1
    return torch.from_numpy(mask)


def _block(
    row: Sequence[float], grid: tuple[int, int], areas: tuple[float, float], aspects: tuple[float, float]
) -> tuple[slice, slice] | None:
    """One attempt: a rectangle strictly smaller than the grid, or None."""
    area = areas[0] + row[0] * (areas[1] - areas[0])
    aspect = math.exp(math.log(aspects[0]) + row[1] * (math.log(aspects[1]) - math.log(aspects[0])))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if height >= grid[0] or width >= grid[1]:
        return None
    top, left = math.floor(row[2] * (grid[0] - height + 1)), math.floor(row[3] * (grid[1] - width + 1))
    return slice(top, top + height), slice(left, left + width)


def block_masks(
    target_counts: Sequence[float],
    grid_size: tuple[int, int],
    generator: numpy.random.Generator,
    *,
    min_patches: int | None = None,
    max_patches: int | None = None,
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> Tensor:
    """One block mask for each target, `[B, h, w]`; `min_patches` None is iBOT's `(min(h, w) // 3)^2`."""
    h, w = whole_pair(grid_size, "grid_size")
    least = max(1, (min(h, w) // 3) ** 2) if min_patches is None else min_patches
    rows = _uniform_rows(generator)
    masks = [block_mask((h, w), target, least, max_patches, aspect, rows) for target in target_counts]
    return torch.stack(masks) if masks else torch.zeros(0, h, w, dtype=torch.int64)


class Corruption(NamedTuple):
    """A corrupted picture `[C, H, W]` and where: int `[H, W]`, 1 = overwritten."""

    corrupted: Tensor
    mask: Tensor


def gmml_corrupt(
    image: Tensor,
    fill: Tensor,
    draws: Draws,
    fraction_draw: float,
    max_fraction: float,
    align: int,
    max_block: float,
) -> Corruption:
    """Overwrite rectangles of `image` with the same pixels of `fill` until a share of it is covered.

    Args:
        image: `[C, H, W]`; not changed.
        fill: `[C, H, W]`, a donor image, noise or zeros.
        draws, fraction_draw, max_fraction, align, max_block: as in `gmml_mask`.

    Returns:
        corrupted `[C, H, W]` and mask int `[H, W]`, 1 = overwritten.

    Raises:
        InvalidInput: shapes that differ; see `gmml_mask`.
    """
    sizes = check_shapes(image=(image, "C H W"), fill=(fill, "C H W"))
    mask = gmml_mask((sizes["H"], sizes["W"]), draws, fraction_draw, max_fraction, align, max_block)
    mask = mask.to(image.device)
    return Corruption(torch.where(mask.bool(), fill.to(image.dtype), image), mask)


def gmml_mask(
    size: tuple[int, int],
    draws: Draws,
    fraction_draw: float,
    max_fraction: float,
    align: int = 1,
    max_block: float = 0.3,
) -> Tensor:
    """Rectangles of random place and size until a share of the pixels is covered.

    The share is uniform from `min(0.5, max_fraction)` to `max_fraction` by `fraction_draw`; the last block may
    exceed it. Starts lie on multiples of `align`, sides are multiples of it, cut at the border.

    Args:
        size: (H, W) in pixels.
        draws: `[n, 4]` uniforms in [0, 1), a row (row, column, height, width) a block, or an endless iterator.
        fraction_draw: in [0, 1].
        max_fraction: in (0, 1].
        align: pixel grid; 1 in the released defaults, the patch size to corrupt whole tokens.
        max_block: longest side as a share of the picture's.

    Returns:
        int `[H, W]`, 1 = corrupted; on the CPU.

    Raises:
        InvalidInput: settings out of range, `align` not below the longest side, draws that end too early.
    """
    H, W = whole_pair(size, "size")
    align = whole(align, "align")
    check_within(0, 1, fraction_draw=fraction_draw, max_fraction=max_fraction, max_block=max_block)
    check_positive(max_fraction=max_fraction)
    longest = int(H * max_block), int(W * max_block)
    if align >= min(longest):
        raise InvalidInput(
            f"align is {align} but the longest block of {H} x {W} pixels at max_block {max_block} is "
            f"{longest[0]} x {longest[1]}; expected a smaller align, a larger max_block or a larger picture."
        )
    least = min(0.5, max_fraction)
    goal = (least + fraction_draw * (max_fraction - least)) * H * W
    mask = numpy.zeros((H, W), dtype=numpy.int64)
    rows, covered, blocks = _rows(draws), 0, 0
    while covered < goal:
        row = next(rows, None)
        if row is None or blocks == MAX_BLOCKS:
            raise InvalidInput(
                f"draws gave {blocks} blocks that cover {covered} of {H * W} pixels, short of the goal {goal:.1f}; "
                "expected more rows, a smaller max_fraction, or an align that divides the picture finely."
            )
        top, left = (
            _uniform_int(row[axis], 0, side - align) // align * align for axis, side in ((0, H), (1, W))
        )
        height = min(_uniform_int(row[2], align, longest[0]), H - top)
        width = min(_uniform_int(row[3], align, longest[1]), W - left)
        mask[top : top + round(height / align) * align, left : left + round(width / align) * align] = 1
        covered, blocks = int(mask.sum()), blocks + 1
    return torch.from_numpy(mask)


def gmml_masks(
    count: int,
    size: tuple[int, int],
    generator: numpy.random.Generator,
    *,
    max_fraction: float = 0.5,
    align: int = 1,
    max_block: float = 0.3,
) -> Tensor:
    """`count` masks `[count, H, W]`, the share of each drawn by itself."""
    rows = _uniform_rows(generator)
    masks = [
        gmml_mask(size, rows, float(generator.random()), max_fraction, align, max_block) for _ in range(count)
    ]
    return torch.stack(masks) if masks else torch.zeros(0, *whole_pair(size, "size"), dtype=torch.int64)


def patch_mask(mask: Tensor, patch_size: int) -> Tensor:
    """Pixel mask `[..., H, W]` -> bool `[..., (H/p) (W/p)]`: True where any pixel of the patch is masked."""
    images = mask.bool().flatten(0, -3)[:, None] if mask.ndim > 2 else mask.bool()[None, None]
    return patchify(images, patch_size).any(dim=-1).view(*mask.shape[:-2], -1)


def other_image(batch_size: int, generator: numpy.random.Generator) -> Tensor:
    """A partner for each image of a batch, never itself: int `[B]`.

    Differs from the GMML code, where an image may draw itself and then counts as corrupted unchanged.

    Raises:
        InvalidInput: fewer than two images.
    """
    if batch_size < 2:
        raise InvalidInput(
            f"batch_size is {batch_size}; expected at least two images to exchange blocks between."
        )
    steps = torch.from_numpy(generator.integers(1, batch_size, size=batch_size))
    return (torch.arange(batch_size) + steps) % batch_size


def _uniform_int(draw: float, low: int, high: int) -> int:
    """An integer from low to high - 1 out of a uniform draw."""
    return low + math.floor(draw * (high - low))


def _rows(draws: Draws) -> Iterator[Sequence[float]]:
    if not isinstance(draws, Tensor):
        return iter(draws)
    check_shapes(draws=(draws, "n 4"))
    if not bool(((draws >= 0) & (draws < 1)).all()):
        raise InvalidInput("draws has values outside [0, 1); expected uniform draws.")
    return iter(draws.tolist())


def _uniform_rows(generator: numpy.random.Generator) -> Iterator[Sequence[float]]:
    while True:
        yield from generator.random((64, 4)).tolist()
