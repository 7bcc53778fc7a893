"""The table of backbones: short names, what they stand for, size, input and licence.

Every other name of timm with its tag (`vit_base_patch16_224.augreg_in21k`) and `hf-hub:OWNER/NAME` load, too;
the table holds those that are worth a short name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewsight.backbones.backbone import Licence
from fewsight.names import closest

__all__ = [
    "BUNDLED",
    "DEFAULT",
    "KNOWN",
    "Known",
    "Row",
    "find",
    "licence_named",
    "rows",
    "suggestion",
]

BUNDLED = "fewsight-bundled"
DEFAULT = "dinov2-s"  # what `auto` takes where its weights are on this machine

Kind = Literal["timm", "bundled", "untrained"]

_META = "weights by Meta AI"
_APACHE = Licence("Apache-2.0", True, _META)
_NONCOMMERCIAL = Licence("CC-BY-NC-4.0", False, _META)


@dataclass(frozen=True)
class Known:
    """One row of the table.

    Attributes:
        name: the short name.
        target: timm's name with its tag; or, for our own networks, "module:class".
        parameters: millions, without a classification head.
        megabytes: of the file that is fetched (10^6 bytes); 0 where nothing is.
        side: of the input in pixels, unless told otherwise.
        licence: of the weights.
        offset, antialias: the authors' rule for positions (`PositionRule`); None for timm's.
        kind: `timm` (fetched), `bundled` (part of the package), `untrained` (random weights).
    """

    name: str
    target: str
    parameters: float
    megabytes: int
    side: int
    licence: Licence
    offset: float | None = None
    antialias: bool = True
    kind: Kind = "timm"

    @property
    def repository(self) -> str:
        """Where the hub keeps it."""
        return f"timm/{self.target}"


_OWN = Licence("Apache-2.0", True, "random weights, for training from scratch")
_DINOV3 = Licence("DINOv3 License", None, f"{_META}; its own terms: read them before commercial use")

KNOWN: tuple[Known, ...] = (
    Known(
        BUNDLED,
        "fewsight.backbones.bundled:load_bundled",
        5.1,
        0,
        192,
        Licence("Apache-2.0", None, "see its card"),
        kind="bundled",
    ),
    Known("dinov2-s", "vit_small_patch14_dinov2.lvd142m", 22.1, 88, 224, _APACHE, 0.1, False),
    Known("dinov2-b", "vit_base_patch14_dinov2.lvd142m", 86.6, 346, 224, _APACHE, 0.1, False),
    Known("dinov2-l", "vit_large_patch14_dinov2.lvd142m", 304.4, 1217, 224, _APACHE, 0.1, False),
    Known("dinov2-s-reg", "vit_small_patch14_reg4_dinov2.lvd142m", 22.1, 88, 224, _APACHE, 0.0, True),
    Known("dinov2-b-reg", "vit_base_patch14_reg4_dinov2.lvd142m", 86.6, 346, 224, _APACHE, 0.0, True),
    Known("dinov2-l-reg", "vit_large_patch14_reg4_dinov2.lvd142m", 304.4, 1217, 224, _APACHE, 0.0, True),
    Known("dino-s16", "vit_small_patch16_224.dino", 21.7, 87, 224, _APACHE, 0.1, False),
    Known("dino-s8", "vit_small_patch8_224.dino", 21.7, 87, 224, _APACHE, 0.1, False),
    Known("dino-b16", "vit_base_patch16_224.dino", 85.8, 343, 224, _APACHE, 0.1, False),
    Known("dino-b8", "vit_base_patch8_224.dino", 85.8, 343, 224, _APACHE, 0.1, False),
    Known("dinov3-s", "vit_small_patch16_dinov3.lvd1689m", 21.6, 86, 256, _DINOV3),
    Known("mae-b", "vit_base_patch16_224.mae", 85.8, 343, 224, _NONCOMMERCIAL, 0.0, False),
    Known("mae-l", "vit_large_patch16_224.mae", 303.3, 1213, 224, _NONCOMMERCIAL, 0.0, False),
    Known("deit-s", "deit_small_patch16_224.fb_in1k", 21.7, 88, 224, _APACHE, 0.0, False),
    Known(
        "clip-b16",
        "vit_base_patch16_clip_224.openai",
        85.8,
        345,
        224,
        Licence("Apache-2.0", True, "weights by OpenAI; undisclosed photos of the web"),
    ),
    Known(
        "siglip-b16",
        "vit_base_patch16_siglip_224.webli",
        92.9,
        372,
        224,
        Licence("Apache-2.0", True, "weights by Google; undisclosed photos of the web"),
    ),
    Known(
        "resnet18",
        "resnet18.tv_in1k",
        11.2,
        47,
        224,
        Licence("BSD-3-Clause", True, "weights by torchvision; ImageNet, whose photos are for research"),
    ),
    Known(
        "resnet50",
        "resnet50.tv_in1k",
        23.5,
        102,
        224,
        Licence("BSD-3-Clause", True, "weights by torchvision; ImageNet, whose photos are for research"),
    ),
    Known("conv4", "fewsight.backbones.conv4:Conv4", 0.1, 0, 28, _OWN, kind="untrained"),
    Known("resnet12", "fewsight.backbones.resnet12:ResNet12", 12.4, 0, 84, _OWN, kind="untrained"),
    Known("resnet34-s16", "fewsight.backbones.resnet:ResNet34", 21.3, 0, 224, _OWN, kind="untrained"),
)


@dataclass(frozen=True)
class Row:
    """One line of `fewsight backbones`."""

    name: str
    target: str
    parameters: float
    megabytes: int
    side: int
    licence: Licence
    here: bool

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            "name": self.name,
            "resolves_to": self.target,
            "parameters": round(self.parameters * 1e6),
            "download_megabytes": self.megabytes,
            "input": self.side,
            "licence": self.licence.name,
            "commercial": self.licence.commercial,
            "note": self.licence.note,
            "on_this_machine": self.here,
        }


def find(name: str) -> Known | None:
    """The row of a short name or of the name that it stands for.

    >>> find("dinov2-s").target
    'vit_small_patch14_dinov2.lvd142m'
    """
    return next((known for known in KNOWN if name in (known.name, known.target)), None)


def rows(*, commercial: bool = False) -> list[Row]:
    """The table, with what is on this machine; with `commercial` only what is known to allow commercial use."""
    from fewsight.backbones.hub import Remote, local_file

    return [
        Row(
            known.name,
            known.target,
            known.parameters,
            known.megabytes,
            known.side,
            _licence(known),
            known.kind != "timm" or local_file(known.target, Remote(known.repository)) is not None,
        )
        for known in KNOWN
        if not commercial or _licence(known).commercial
    ]


def _licence(known: Known) -> Licence:
    """Of a row; the bundled network's card says its own."""
    if known.kind != "bundled":
        return known.licence
    import json
    from importlib import resources

    card = resources.files("fewsight") / "weights" / "bundled.json"
    if not card.is_file():
        return known.licence
    return Licence(**json.loads(card.read_text(encoding="utf-8"))["licence"])


def suggestion(name: str) -> str:
    """A hint for a name that nothing has."""
    return closest(name, [known.name for known in KNOWN])


_COMMERCIAL = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
}


def licence_named(text: str | None, note: str = "") -> Licence:
    """The licence that a model card's word stands for.

    >>> licence_named("cc-by-nc-4.0").commercial
    False
    """
    if not text:
        return Licence("unknown", None, note or "its authors name none")
    plain = text.lower()
    if plain in _COMMERCIAL:
        return Licence(_COMMERCIAL[plain], True, note)
    noncommercial = "-nc" in plain or "noncommercial" in plain or "non-commercial" in plain
    return Licence(text.upper() if noncommercial else text, False if noncommercial else None, note)
