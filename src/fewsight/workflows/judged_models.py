"""What `fewsight evaluate` judges: a backbone with a head, the features of the data, and a rival on the same photos."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fewsight.backbones.encode import Encoder
from fewsight.backbones.loading import load_backbone
from fewsight.errors import InvalidInput
from fewsight.heads.head import Head
from fewsight.heads.vectors import VectorHead
from fewsight.names import choices, resolve
from fewsight.trained_head import make_head
from fewsight.workflows.embedded_data import backbone_of, embedded_data
from fewsight.workflows.encoded_data import EncodedData, encode_collection, encode_data
from fewsight.workflows.evaluation_task import EvaluationTask
from fewsight.workflows.feature_shards import is_embedding

__all__ = ["JudgedModel", "judged_model", "model_and_data", "rival_data", "rival_model"]


@dataclass(frozen=True)
class JudgedModel:
    """A backbone with a head; `encoder` is None where the features are at hand."""

    backbone: str
    head_name: str
    head: Head
    encoder: Encoder | None

    @property
    def name(self) -> str:
        """For comparisons."""
        return f"{self.backbone} with {self.head_name}"


def judged_model(task: EvaluationTask) -> JudgedModel:
    """The backbone and head that are asked for."""
    loaded = load_backbone(task.backbone, image_size=task.image_size)
    built = make_head(task.head, task.backbone, loaded.pooling)
    encoder = Encoder(
        loaded,
        built.request,
        precision=task.precision,
        device=task.device,
        vectors=isinstance(built, VectorHead),
        batch_size=task.batch_size,
    )
    return JudgedModel(loaded.name, task.head, built, encoder)


def model_and_data(task: EvaluationTask) -> tuple[JudgedModel, EncodedData]:
    """What is judged, and the features of the data: read from a folder of `fewsight embed`, else encoded."""
    folder = task.source
    if not is_embedding(folder):
        made = judged_model(task)
        assert made.encoder is not None
        return made, encode_data(folder, made.encoder, workers=task.workers, **task.reading)
    if task.backbone not in ("auto", backbone_of(folder)):
        raise InvalidInput(
            f"{folder} holds features of {backbone_of(folder)}: leave --backbone {task.backbone} out, or give the "
            "photos."
        )
    return _embedded_model(task), embedded_data(folder, **task.reading)


def _embedded_model(task: EvaluationTask) -> JudgedModel:
    """A head on the vectors of a folder of `fewsight embed`."""
    made = resolve("heads", task.head)
    if not issubclass(made, VectorHead):
        raise InvalidInput(
            f"head {task.head} reads patch tokens, and {task.source} holds one vector a photo: give the photos "
            "themselves."
        )
    return JudgedModel(backbone_of(task.source), task.head, made(), None)


def rival_model(task: EvaluationTask, model: JudgedModel) -> JudgedModel | None:
    """What `--against` names: a head of the same backbone, another backbone with the same head, or BACKBONE:HEAD."""
    if task.against is None:
        return None
    heads = choices("heads")
    if task.against in heads and model.encoder is None:
        return _embedded_model(replace(task, head=task.against))
    before, colon, after = task.against.rpartition(":")
    if task.against in heads:
        return judged_model(replace(task, head=task.against))
    if colon and after in heads:
        return judged_model(replace(task, backbone=before, head=after))
    return judged_model(replace(task, backbone=task.against, head=model.head_name))


def rival_data(encoded: EncodedData, rival: JudgedModel | None, workers: int | None) -> EncodedData | None:
    """The same photos through the rival; None without one.

    Raises:
        InvalidInput: it does not read the same photos.
    """
    if rival is None or rival.encoder is None:
        return None if rival is None else encoded
    other = encode_collection(encoded.collection, rival.encoder, workers=workers)
    if len(other.collection) != len(encoded.collection):
        raise InvalidInput(
            "the two backbones do not read the same photos; a paired comparison is not possible."
        )
    return other
