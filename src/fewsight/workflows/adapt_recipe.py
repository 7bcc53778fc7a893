"""What decides a run of `adapt`: the recipe, the methods that it can name, and how they differ."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.bundled import BundledBackbone
from fewsight.backbones.tuning import Tuning
from fewsight.data.pipelines import Augmentation, Kind
from fewsight.errors import InvalidInput
from fewsight.objectives.label_contrastive import LabelContrastiveSettings
from fewsight.training.settings import TrainingSettings

__all__ = ["METHODS", "AdaptRecipe", "Method", "Stage2"]

Start = Literal["random", "probe"]
BUNDLED_FACTOR = 10.0


@dataclass(frozen=True)
class Method:
    """One way to adapt.

    Attributes:
        summary: for people.
        objective: what is minimised; None trains nothing.
        tuning: which parameters of the backbone move.
        start: of a linear head: random, or the linear probe.
        head: that answers at the end: prototypes or logistic regression on frozen features, or the trained head.
        rate: of a backbone with the published sizes, unless the recipe gives one. The bundled network, a twentieth of
            them, moves best at ten times as much (chosen on a set that no table of results shows).
    """

    summary: str
    objective: Literal["label_contrastive", "cross_entropy", "joint", "prototypes"] | None
    tuning: Tuning = "full"
    start: Start = "random"
    head: Literal["prototypes", "logistic", "trained"] = "trained"
    rate: float = 5e-5


METHODS: dict[str, Method] = {
    "nearest_mean": Method("no training; the nearest class mean", None, head="prototypes"),
    "linear_probe": Method("no training; logistic regression on the features", None, head="logistic"),
    "lacvit": Method(
        "label-aware contrastive training, then logistic regression", "label_contrastive", head="logistic"
    ),
    "full": Method("cross-entropy, everything trained, random head", "cross_entropy"),
    "lp_ft": Method("cross-entropy, everything trained, head from the probe", "cross_entropy", start="probe"),
    "lora": Method(
        "cross-entropy through low-rank additions to query and value",
        "cross_entropy",
        tuning="lora",
        start="probe",
        rate=1e-3,
    ),
    "layer_norm": Method(
        "cross-entropy, LayerNorms alone", "cross_entropy", tuning="layer_norm", start="probe", rate=3e-4
    ),
    "joint": Method("cross-entropy and label-aware contrast at once", "joint", start="probe"),
    "prototype_tuning": Method("augmented photos against clean prototypes", "prototypes", head="prototypes"),
}


@dataclass(frozen=True)
class Stage2:
    """How the head of stage 2 is fitted.

    Attributes:
        head: `logistic` regression or `prototypes` on clean features; `linear`: a linear layer by gradient on randomly
            cropped photos, as the authors' code does.
        epochs: of `linear`, through the training photos.
        batch, learning_rate, final_learning_rate: of `linear`.
    """

    head: Literal["logistic", "prototypes", "linear"] = "logistic"
    epochs: float = 100
    batch: int = 128
    learning_rate: float = 0.1
    final_learning_rate: float = 0.0008  # 0.1 times 0.2 cubed


@dataclass(frozen=True)
class AdaptRecipe:
    """Everything that decides a run of `adapt`.

    Attributes:
        method: a name of `METHODS`.
        tuning: which parameters of the backbone move; None = the method's.
        sampling: `balanced` (`classes` classes, `photos` photos of each in a batch) or `shuffled` (`batch` photos in
            the order of an epoch).
        classes, photos, batch: see there.
        views: augmented views of a photo.
        augmentation: of every view.
        kind: of pictures; leaves out what would destroy their signal (`for_kind`).
        loss: of contrastive methods.
        share: of the contrastive term where it is joined with cross-entropy.
        lora_rank: of the additions; their alpha equals it.
        drop_path: share of residual branches left out in the last block while training, growing from 0 in the first.
        epochs: length through the training photos in place of `training.steps`; None = as `training` says.
        backbone_learning_rate: at the end of the warm-up; None = the method's.
        stop_share: share of the training photos that choose the step to keep; they are not trained on, nor judged.
        stop_every: steps between two looks at them; 0 never looks.
        judged_share: share of the photos held out for the verdict where the data has no test split.
        training: optimiser and schedules; its rate is that of heads and projectors.
        stage2: the head on frozen features.
    """

    method: str = "lacvit"
    tuning: Tuning | None = None
    sampling: Literal["balanced", "shuffled"] = "balanced"
    classes: int = 16
    photos: int = 4
    batch: int = 128
    views: int = 2
    augmentation: Augmentation = field(default_factory=Augmentation)
    kind: Kind = "photos"
    loss: LabelContrastiveSettings = field(default_factory=LabelContrastiveSettings)
    share: float = 0.5
    lora_rank: int = 8
    drop_path: float = 0.0
    epochs: float | None = None
    backbone_learning_rate: float | None = None
    stop_share: float = 0.2
    stop_every: int = 0
    judged_share: float = 1 / 3
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=100))
    stage2: Stage2 = field(default_factory=Stage2)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidInput(f"method is {self.method!r}; choose one of: {', '.join(METHODS)}.")
        for name in ("classes", "photos", "batch", "views", "lora_rank"):
            if getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected at least 1.")
        for name in ("stop_share", "judged_share", "share", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected a share in [0, 1).")

    @property
    def of_method(self) -> Method:
        """The row of `METHODS`, with the recipe's own tuning."""
        row = METHODS[self.method]
        return replace(row, tuning=self.tuning or row.tuning)

    def backbone_rate(self, backbone: Backbone) -> float:
        """Learning rate of the backbone at the end of the warm-up."""
        if self.backbone_learning_rate is not None:
            return self.backbone_learning_rate
        return self.of_method.rate * (BUNDLED_FACTOR if isinstance(backbone, BundledBackbone) else 1.0)
