"""Features of two origins are compared only if one backbone made both."""

from __future__ import annotations

from pathlib import Path

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.feature_cache import features_of
from fewsight.backbones.hub import without_network
from fewsight.backbones.loading import load_backbone
from fewsight.errors import FewsightError, InvalidInput
from fewsight.workflows.embedded_photos import EmbeddedPhotos, FeatureMaker

__all__ = ["backbone_like", "check_same", "check_vectors", "maker_of"]


def maker_of(backbone: Backbone, precision: str = "auto") -> FeatureMaker:
    """A backbone as what made features."""
    return FeatureMaker(backbone.name, backbone.image_size, precision, features_of(backbone))


def check_same(first: FeatureMaker, where: object, second: FeatureMaker, elsewhere: object) -> None:
    """Refuse to compare features of two backbones.

    Raises:
        InvalidInput: they differ; the message names both.
    """
    if first.identity and second.identity:
        same = first.identity == second.identity
    else:
        same = (first.name, first.image_size) == (second.name, second.image_size)
    if not same:
        other = " (other weights or preprocessing)" if str(first) == str(second) else ""
        raise InvalidInput(
            f"{where} holds features of {first}, {elsewhere} of {second}{other}: they cannot be compared. Run "
            "`fewsight embed` again with one --backbone and --image-size for both."
        )


def check_vectors(head: str, folder: Path) -> None:
    """Refuse a head that reads patch tokens, which features of `fewsight embed` have not.

    Raises:
        InvalidInput: the head is unknown, or reads patches.
    """
    from fewsight.heads.vectors import VectorHead
    from fewsight.names import resolve

    if not issubclass(resolve("heads", head), VectorHead):
        raise InvalidInput(
            f"head {head} reads patch tokens, and {folder} holds one vector a photo: give the photos themselves."
        )


def backbone_like(
    maker: FeatureMaker, origin: EmbeddedPhotos, asked: str, image_size: int | None, *, needed: bool
) -> Backbone | None:
    """The backbone that made the features of `origin`, loaded again.

    Args:
        maker: of the features.
        asked: `--backbone` as given; `auto` takes the maker's name.
        image_size: `--image-size` as given; None takes the maker's.
        needed: photos must be encoded with it, so that it may be fetched if it was asked for by name.

    Returns:
        None where it is not needed and not on this machine.

    Raises:
        InvalidInput: what was asked for is another backbone; the message names both.
        MissingWeights: it is needed and not here.
    """
    size = maker.image_size if image_size is None else image_size
    name = maker.name if asked == "auto" else asked
    try:
        if needed or asked != "auto":
            loaded = load_backbone(name, image_size=size)
        else:
            with without_network():
                loaded = load_backbone(name, image_size=size)
    except FewsightError as error:
        if asked != "auto":
            raise
        if needed:
            raise type(error)(f"{origin.folder} holds features of {maker}, and {error}") from error
        return None
    given = [
        name for name, is_given in (("--backbone", asked != "auto"), ("--image-size", image_size)) if is_given
    ]
    try:
        check_same(maker, origin.folder, maker_of(loaded), " and ".join(given) or "this machine")
    except InvalidInput:
        if needed or given:
            raise
        return None
    return loaded
