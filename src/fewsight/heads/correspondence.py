"""Training-free segmentation from a few labelled photos: the head, around `dense_matching`.

Conditioning makes a bank of support patches with foreground priors: from given masks where a photo has one, else
from attention or the photo's own affinity, refined by what the shots of a class share and what classes share.
A query patch belongs to a class where that class's foreground is nearer than any background; a class is present
where its best patches exceed a threshold learnt from the supports among themselves. The method is ours.

Letters: S support images, N classes, P patches of an image, D width, Q queries, H x W output pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Features, Request
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.dense_matching import (
    cycle_consistency,
    foreground_margin,
    log_weight,
    nearest_weighted,
    presence_score,
)
from fewsight.heads.head import Head, Segmented, Support
from fewsight.heads.presence import (
    PresenceThreshold,
    presence_probability,
    presence_threshold,
    separation,
)
from fewsight.heads.pseudo_masks import nearest_similarities, refined_prior, support_prior
from fewsight.heads.support_bank import SupportBank

__all__ = [
    "ConditionedCorrespondence",
    "Correspondence",
    "cycle_consistency",
    "foreground_margin",
    "presence_score",
]


class Correspondence(Head):
    """Training-free dense head.

    Args:
        tokens: `"patches"` = patch tokens after the final norm; `"keys"` = keys of the last block, all heads side
            by side (the better choice for DINO-v1).
        attention: ask the backbone for class-token attention, the first source of priors for photos without a
            mask; False for networks without attention, which then use the photo's own affinity.
        neighbours: k of the margin; None: at most 10, at most half of the smallest foreground.
        temperature: τ of the margin, in units of cosine.
        fraction: share of a query's patches that speak for presence.
        presence_level: raw presence score that counts as absent where no support shows it (one class); 0.4 was
            measured with the bundled backbone at 256 px and is no promise.
        calibration_images: at most this many supports are asked for calibration, evenly chosen.
    """

    def __init__(
        self,
        *,
        tokens: Literal["patches", "keys"] = "patches",
        attention: bool = True,
        neighbours: int | None = None,
        temperature: float = 0.07,
        fraction: float = 0.02,
        presence_level: float = 0.4,
        calibration_images: int = 64,
    ) -> None:
        super().__init__()
        if tokens not in ("patches", "keys"):
            raise InvalidInput(f"tokens is {tokens!r}; expected 'patches' or 'keys'.")
        if neighbours is not None and neighbours < 1:
            raise InvalidInput(f"neighbours is {neighbours}; expected at least 1, or None.")
        if not 0 < temperature < float("inf") or not 0 < fraction <= 1:
            raise InvalidInput(
                f"temperature and fraction are {temperature} and {fraction}; expected a positive number and one "
                "in (0, 1]."
            )
        self.tokens, self.neighbours, self.temperature = tokens, neighbours, temperature
        self.fraction, self.presence_level, self.calibration_images = (
            fraction,
            presence_level,
            calibration_images,
        )
        self.request = Request(keys=tokens == "keys", attention=attention)

    @classmethod
    def for_backbone(cls, backbone: Backbone) -> Correspondence:
        """The head with what `backbone` can give: without attention where it has no heads."""
        return cls(attention=backbone.num_heads > 0)

    def patches(self, features: Features) -> Tensor:
        """The vectors that are compared, float32 or float64, [B, h, w, D].

        Raises:
            InvalidInput: the features hold no patches (given as numbers), or no keys where these are wanted.
        """
        found = features.patches
        if self.tokens == "keys":
            found = None if features.keys is None else features.keys.permute(0, 2, 3, 1, 4).flatten(3)
        if found is None:
            raise InvalidInput(
                f"the features hold no {self.tokens}; correspondence needs a backbone with a patch grid."
            )
        return found if found.dtype == torch.float64 else found.float()

    def condition(self, support: Support) -> ConditionedCorrespondence:
        """Keep patches and priors of the supports.

        Raises:
            InvalidInput: there are no patches, or a mask marks nothing of a class that the photo is labelled with.
        """
        patches = self.patches(support.features)
        prior, given = support_prior(support, patches)
        return ConditionedCorrespondence(
            self,
            support.names,
            patches,
            prior,
            given.to(patches.device),
            support.membership.to(patches.device),
        )

    def leave_one_out(self, support: Support) -> Tensor:
        """Log odds of presence of every support image under the others, `[S, N]`; -inf for a class without any."""
        conditioned = self.condition(support)
        threshold = conditioned.threshold
        return (
            conditioned.left_out(torch.arange(len(conditioned.patches))) - threshold.value
        ) / threshold.scale

    def restore(self, names: Sequence[str], state: Mapping[str, Tensor]) -> ConditionedCorrespondence:
        """The conditioned head that `ConditionedCorrespondence.state` was taken from."""
        missing = {"patches", "prior", "given", "membership"} - set(state)
        if missing:
            raise IncompatibleModel(f"the correspondence state lacks {', '.join(sorted(missing))}.")
        patches, membership = state["patches"].float(), state["membership"].bool()
        fits = (len(patches), len(names), patches.shape[1] * patches.shape[2])
        if tuple(state["prior"].shape) != fits or tuple(membership.shape) != fits[:2]:
            raise IncompatibleModel(f"the correspondence state does not fit {len(names)} classes.")
        return ConditionedCorrespondence(
            self, tuple(names), patches, state["prior"].float(), state["given"].bool(), membership
        )


class Matches(NamedTuple):
    """For each query, class and query patch [Q, N, h, w] the support patch that answered."""

    image: Tensor  # int: which support image
    place: Tensor  # int: which of its patches, row by row
    cosine: Tensor  # similarity of the two, centred, in [-1, 1]


@dataclass(frozen=True)
class ConditionedCorrespondence:
    """Patches and priors of the supports: a value.

    Attributes:
        patches: raw vectors, [S, h, w, D].
        prior: foreground prior before refinement, in [0, 1], [S, N, P].
        given: whether the prior comes from a given mask, bool [S].
        membership: bool [S, N].
    """

    head: Correspondence
    names: tuple[str, ...]
    patches: Tensor
    prior: Tensor
    given: Tensor
    membership: Tensor

    def scores(self, queries: Features) -> Tensor:
        """Log odds of presence, `[Q, N]`: above 0 where the class is called present."""
        threshold = self.threshold
        return (self._presence(self.bank, self.head.patches(queries)) - threshold.value) / threshold.scale

    def segment(self, queries: Features, size: tuple[int, int]) -> Segmented:
        """Presence probability [Q, N] and foreground [Q, N, H, W], both above 0.5 where the answer is yes.

        Foreground is the logistic of the margin over τ: 0.5 where foreground and background are as near.
        """
        patches = self.head.patches(queries)
        margin = self.bank.margins(patches)
        presence = presence_probability(
            self.bank.presence(patches, margin, fraction=self.head.fraction), self.threshold
        )
        maps = margin.unflatten(2, patches.shape[1:3])  # [Q, N, h, w]
        maps = F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
        return Segmented(presence, (maps / self.head.temperature).sigmoid_())

    def margins(self, queries: Features) -> Tensor:
        """Margin of each class at each patch, in units of cosine, [Q, N, h, w]."""
        patches = self.head.patches(queries)
        return self.bank.margins(patches).unflatten(2, patches.shape[1:3])

    def presence_threshold(self, *, false_alarms: float | None = None) -> PresenceThreshold:
        """The threshold of raw presence scores; with `false_alarms` one that promises at most this share."""
        positives, negatives = self.evidence
        return presence_threshold(positives, negatives, alpha=false_alarms, default=self.head.presence_level)

    @cached_property
    def threshold(self) -> PresenceThreshold:
        """The threshold that `scores` and `segment` use."""
        return self.presence_threshold()

    @property
    def separation(self) -> float | None:
        """Chance that a present class scores above an absent one among the supports; None with too few of each."""
        return separation(*self.evidence)

    @cached_property
    def bank(self) -> SupportBank:
        """All supports, for queries."""
        return self._bank(torch.arange(len(self.patches)))

    @cached_property
    def evidence(self) -> tuple[Tensor, Tensor]:
        """Presence scores of supports, each under the others: of classes they have, and of classes they have not.

        One class gives no negatives. Windows of a photo's own background were tried in their place and are not
        used: beside the photo's own foreground they score higher than other photos with the class do.
        """
        count = len(self.patches)
        asked = torch.linspace(0, count - 1, min(count, self.head.calibration_images)).round().long().unique()
        scores = self.left_out(asked)
        own, known = self.membership[asked.to(scores.device)], scores > -torch.inf
        return scores[own & known], scores[~own & known]

    def left_out(self, images: Tensor) -> Tensor:
        """Raw presence scores of some support images, each under the others, [A, N]; -inf for a class without any.

        An image is left out of the centre, of its class's bank and of the background.
        """
        everyone = torch.arange(len(self.patches))
        scores = self.patches.new_full((len(images), len(self.names)), -torch.inf)
        for row, image in enumerate(images.tolist()):
            others = everyone[everyone != image]
            if len(others):
                scores[row] = self._presence(self._bank(others), self.patches[image : image + 1])[0]
        return scores

    def matches(self, queries: Features) -> Matches:
        """The support patch that answered for each class at each query patch: what a report shows as reason."""
        patches = self.head.patches(queries)
        Q, h, w, _ = patches.shape
        query = F.normalize(patches.flatten(0, 2) - self.bank.mean, dim=-1, eps=1e-12)
        images, places, cosines = [], [], []
        for way in range(len(self.names)):
            rows = self.membership[:, way].nonzero().flatten()
            weight = log_weight(self.bank.prior[rows, way], self.head.temperature)
            bank = self.bank.directions[rows]
            nearest = nearest_weighted(query, bank.flatten(0, 1), weight.flatten())
            images.append(rows[nearest // bank.shape[1]])
            places.append(nearest % bank.shape[1])
            cosines.append((query * bank.flatten(0, 1)[nearest]).sum(1))
        return Matches(
            *(torch.stack(part).view(-1, Q, h, w).transpose(0, 1) for part in (images, places, cosines))
        )

    @cached_property
    def _nearest(self) -> Tensor:
        """Similarities between all supports, centred by the mean of all; banks that leave one out share them."""
        patches = self.patches.flatten(1, 2)
        return nearest_similarities(F.normalize(patches - patches.mean((0, 1)), dim=-1, eps=1e-12))

    def _presence(self, bank: SupportBank, patches: Tensor) -> Tensor:
        return bank.presence(patches, bank.margins(patches), fraction=self.head.fraction)

    def _bank(self, index: Tensor) -> SupportBank:
        index = index.to(self.patches.device)
        membership, prior = self.membership[index], self.prior[index]
        guessed = ~self.given[index]
        if bool(guessed.any()):
            refined = refined_prior(prior, self._nearest[index][:, index], membership)
            prior = torch.where(guessed[:, None, None], refined, prior)
        patches = self.patches[index].flatten(1, 2)
        return SupportBank.of(
            patches, prior, membership, neighbours=self.head.neighbours, temperature=self.head.temperature
        )

    def with_class(self, name: str, features: Features) -> ConditionedCorrespondence:
        """The same with one more class, its column last; its photos have labels only.

        Raises:
            InvalidInput: the class is there already, or its photos have another grid.
        """
        if name in self.names:
            raise InvalidInput(f"there is a class {name!r} already; remove it first, or choose another name.")
        count = features.num_images
        new = self.head.condition(Support(features, torch.ones(count, 1, dtype=torch.bool), (name,)))
        if new.patches.shape[1:] != self.patches.shape[1:]:
            raise InvalidInput(
                f"class {name!r} has patches {list(new.patches.shape[1:])}; expected {list(self.patches.shape[1:])}."
            )
        return replace(
            self,
            names=(*self.names, name),
            patches=torch.cat([self.patches, new.patches]),
            prior=_block_diagonal(self.prior, new.prior),
            given=torch.cat([self.given, new.given]),
            membership=_block_diagonal(self.membership[..., None], new.membership[..., None])[..., 0],
        )

    def without_class(self, name: str) -> ConditionedCorrespondence:
        """The same without one class; photos that belong to no other class go with it.

        Raises:
            InvalidInput: there is no such class, or it is the only one.
        """
        if name not in self.names or len(self.names) == 1:
            raise InvalidInput(f"class {name!r} cannot be removed from {list(self.names)}.")
        columns = torch.tensor([other != name for other in self.names], device=self.patches.device)
        rows = self.membership[:, columns].any(1)
        return replace(
            self,
            names=tuple(other for other in self.names if other != name),
            patches=self.patches[rows],
            prior=self.prior[rows][:, columns],
            given=self.given[rows],
            membership=self.membership[rows][:, columns],
        )

    def state(self) -> Mapping[str, Tensor]:
        """Tensors for a model folder; patches and priors in half precision."""
        return {
            "patches": self.patches.half(),
            "prior": self.prior.half(),
            "given": self.given,
            "membership": self.membership,
        }


def _block_diagonal(old: Tensor, new: Tensor) -> Tensor:
    """[S, N, P] and [T, M, P] -> [S + T, N + M, P], zero elsewhere."""
    result = old.new_zeros(len(old) + len(new), old.shape[1] + new.shape[1], old.shape[2])
    result[: len(old), : old.shape[1]] = old
    result[len(old) :, old.shape[1] :] = new
    return result
