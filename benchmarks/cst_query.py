"""A 1-way 5-shot query end to end at ViT-S/8, 400 px: ours against the straightforward form.

The straightforward form is the authors' test: for each of the five shots query and support are encoded again, attention
is explicit, all correlation tokens are one tensor. Ours encodes the query once, supports come conditioned (as
`FewShotSegmenter` and `fewsight segment` keep them). Random weights: the cost does not depend on them. CPU time of one
process; the memory figure is the largest peak above the state before.

    python benchmarks/cst_query.py [--rounds 1] [--side 400]

`second query` is a query whose five supports are known, against the first one, which encodes them, too.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor

from cst_head import plain_head, plain_tokens
from fewsight.backbones.backbone import Licence
from fewsight.backbones.features import Features, Request
from fewsight.backbones.vit import VisionTransformerBackbone
from fewsight.data.transform import Transform
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.heads.head import Support
from measure import compare, table

SHOTS = 5


def explicit_attention(model: torch.nn.Module, images: Tensor) -> list[Tensor]:
    """Block outputs after the final norm, attention written out, as the authors' backbone does it."""
    x = model._pos_embed(model.patch_embed(images))
    outputs = []
    for block in model.blocks:
        y = block.norm1(x)
        B, T, D = y.shape
        n = block.attn.num_heads
        q, k, v = block.attn.qkv(y).reshape(B, T, 3, n, D // n).permute(2, 0, 3, 1, 4).unbind(0)
        attention = ((q @ k.transpose(-2, -1)) * (D // n) ** -0.5).softmax(-1)
        x = x + block.attn.proj((attention @ v).transpose(1, 2).reshape(B, T, D))
        x = x + block.mlp(block.norm2(x))
        outputs.append(model.norm(x))
    return outputs


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", type=int, default=400)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side, grid = options.side, options.side // 8
    import timm

    model = timm.create_model(
        "vit_small_patch8_224", pretrained=False, num_classes=0, img_size=side, dynamic_img_size=True
    ).eval()
    backbone = VisionTransformerBackbone(
        model, name="ViT-S/8", transform=Transform(size=(side, side)), licence=Licence("", None)
    ).eval()
    head = CorrelationHead(6, 12, mask_reduction="points", pseudo_masks="none").eval()
    images = torch.randn(1 + SHOTS, 3, side, side)
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, : side // 2, : side // 2] = True  # a quarter, as an object of usual size
    request = Request(blocks="all")

    def blocks(found: list[Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack(found, 1)
        return stacked[:, :, 0], stacked[:, :, 1:].unflatten(2, (grid, grid))

    def straightforward() -> Tensor:
        answers = []
        for shot in range(SHOTS):
            query = blocks(explicit_attention(model, images[:1]))[1]
            cls, support = blocks(explicit_attention(model, images[1 + shot : 2 + shot]))
            _, logits = plain_head(head.learner, plain_tokens(query, cls, support), mask, grid)
            enlarged = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=True)
            answers.append(enlarged.softmax(1)[:, 1])
        return torch.stack(answers).mean(0)

    def conditioned(count: int) -> object:
        parts = [backbone.features(images[1 + k : 2 + k], request) for k in range(count)]
        features = Features(
            torch.cat([p.cls for p in parts]),
            torch.cat([p.patches for p in parts]),
            type(parts[0].blocks)(
                torch.cat([p.blocks.cls for p in parts]), torch.cat([p.blocks.patches for p in parts])
            ),
        )
        membership = torch.ones(count, 1, dtype=torch.bool)
        return head.condition(Support(features, membership, ("object",), tuple(mask.expand(count, -1, -1))))

    def query(known: object) -> Tensor:
        return known.segment(backbone.features(images[:1], request), (side, side)).foreground[0]

    with torch.no_grad():
        five = conditioned(SHOTS)
        last: dict[str, Tensor] = {}
        costs = compare(
            {
                "straightforward": lambda: last.update(plain=straightforward()),
                "ours, supports kept": lambda: last.update(ours=query(five)),
            },
            options.rounds,
        )
        print(table(costs, "straightforward"))
        difference = float((last["plain"] - last["ours"]).abs().max())
        print(f"largest difference of a probability: {difference:.1e}")
        again = compare(
            {"first query": lambda: query(conditioned(SHOTS)), "second query": lambda: query(five)},
            options.rounds,
        )
        print(table(again, "first query"))


if __name__ == "__main__":
    main()
