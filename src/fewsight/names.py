"""The table of names: what each method is called, where it lives, and one sentence about it.

A literal table, loaded when asked for: `resolve("heads", "prototypes")` imports only the module that holds it.
The table of methods in the README and the checked list of public names are made from it.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import Any

from fewsight.errors import InvalidInput

__all__ = ["PUBLIC", "TABLES", "Entry", "choices", "closest", "resolve"]


@dataclass(frozen=True)
class Entry:
    """One method: `target` is "module:attribute", `summary` a sentence, `source` the publication."""

    target: str
    summary: str
    source: str = ""


HEADS: dict[str, Entry] = {
    "prototypes": Entry(
        "fewsight.heads.prototypes:Prototypes",
        "compares with the mean of each class",
        "Snell, Swersky, Zemel 2017",
    ),
    "neighbours": Entry(
        "fewsight.heads.neighbours:Neighbours",
        "votes of the nearest support photos",
        "Wu, Xiong, Yu, Lin 2018",
    ),
    "matching": Entry(
        "fewsight.heads.matching:Matching",
        "softmax over cosines to every support, summed per class",
        "Vinyals et al. 2016",
    ),
    "logistic": Entry(
        "fewsight.heads.logistic:Logistic",
        "logistic regression on the support",
        "Assran et al. 2022 (protocol)",
    ),
    "crosstransformer": Entry(
        "fewsight.heads.crosstransformer:CrossTransformer",
        "compares patch by patch with the whole class; untrained it is ahead of `prototypes` at five shots where "
        "places matter (sketches, hand signs), behind on textures and mostly at one shot",
        "Doersch, Gupta, Zisserman 2020",
    ),
}

DENSE_HEADS: dict[str, Entry] = {
    "correspondence": Entry(
        "fewsight.heads.correspondence:Correspondence",
        "says what is there and where by matching patches, without training (`segment`)",
        "own; after Amir et al. 2021 and others",
    ),
    "cst": Entry(
        "fewsight.heads.correlation_head:CorrelationHead",
        "correlation transformer: what is there and where; weights for the bundled backbone, or `metatrain --head cst`",
        "Kang, Koniusz, Cho, Murray 2023",
    ),
}

OBJECTIVES: dict[str, Entry] = {
    "episodic": Entry(
        "fewsight.objectives.episodic:Episodic",
        "trains a head and its backbone on small tasks (`metatrain`)",
        "Vinyals et al. 2016; Snell et al. 2017",
    ),
    "simclr_episodes": Entry(
        "fewsight.objectives.simclr_episodes:SimclrEpisodes",
        "small tasks that ask for the photo instead of the class, for any head (`metatrain`)",
        "Doersch, Gupta, Zisserman 2020",
    ),
    "label_contrastive": Entry(
        "fewsight.objectives.label_contrastive:LabelContrastive",
        "pulls photos of a class together (`adapt`)",
        "Khosla et al. 2020; LaCViT",
    ),
    "classification": Entry(
        "fewsight.objectives.classification:Classification",
        "cross-entropy through a linear head, alone or joined with label-aware contrast (`adapt`)",
        "Kumar et al. 2022; Long et al. 2024",
    ),
    "prototype_tuning": Entry(
        "fewsight.objectives.prototype_tuning:PrototypeTuning",
        "augmented photos against the prototypes of clean ones (`adapt`)",
        "Hu et al. 2022",
    ),
    "simclr": Entry(
        "fewsight.objectives.simclr:SimClr",
        "contrastive: two views against the batch (`pretrain`)",
        "Chen et al. 2020",
    ),
    "moco_v3": Entry(
        "fewsight.objectives.moco_v3:MocoV3",
        "contrastive: queries against keys of an averaged teacher (`pretrain`)",
        "Chen, Xie, He 2021",
    ),
    "dino": Entry(
        "fewsight.objectives.dino:Dino",
        "clustering of views by an averaged teacher, small views included (`pretrain`)",
        "Caron et al. 2021",
    ),
    "msn": Entry(
        "fewsight.objectives.msn:Msn",
        "clustering of views with dropped patches (`pretrain`)",
        "Assran et al. 2022",
    ),
    "swav": Entry(
        "fewsight.objectives.swav:Swav",
        "clustering: swapped prediction of balanced codes, without a teacher (`pretrain`)",
        "Caron et al. 2020",
    ),
    "ibot": Entry(
        "fewsight.objectives.ibot:Ibot",
        "clustering of views and of masked patches (`pretrain`)",
        "Zhou et al. 2022",
    ),
    "mae": Entry(
        "fewsight.objectives.mae_training:Mae",
        "masked pixels from a quarter of the patches (`pretrain`)",
        "He et al. 2022",
    ),
    "simmim": Entry(
        "fewsight.objectives.simmim:SimMim", "masked pixels from mask tokens (`pretrain`)", "Xie et al. 2022"
    ),
    "gmml": Entry(
        "fewsight.objectives.gmml:Gmml",
        "corrupted pixels, connected blocks overwritten (`pretrain`)",
        "Atito et al. 2022",
    ),
    "masked_clustering": Entry(
        "fewsight.objectives.masked_clustering:MaskedClustering",
        "masked modelling joined with clustering of views and patches (`pretrain`)",
        "Atito et al. 2021; Nandam et al. 2024",
    ),
    "cst": Entry(
        "fewsight.objectives.cst:CST",
        "trains the cst head from image labels, masks, or some masks (`metatrain --head cst`)",
        "Kang et al. 2023",
    ),
    "mask_enhancement": Entry(
        "fewsight.objectives.mask_enhancement:MaskEnhancement",
        "trains the enhancer of pseudo-masks where some photos have masks (`metatrain --supervision mixed`)",
        "Kang et al. 2023; training our own",
    ),
}

# how `fewsight evaluate` judges: each is called with the `EvaluationTask` and gives an `Evaluation`
PROTOCOLS: dict[str, Entry] = {
    "episodes": Entry(
        "fewsight.workflows.evaluate_episodes:evaluate_on_episodes",
        "many small tasks of fixed way and shot (the default of `evaluate`)",
        "Vinyals et al. 2016",
    ),
    "rotated-episodes": Entry(
        "fewsight.workflows.evaluate_rotated:evaluate_on_rotated_episodes",
        "the same with turned photos as further classes, as is usual on Omniglot",
        "Santoro et al. 2016; Snell et al. 2017",
    ),
    "meta-dataset": Entry(
        "fewsight.workflows.evaluate_meta_dataset:evaluate_on_meta_dataset",
        "the ten sources of Meta-Dataset as published, beside the published rows, with ranks",
        "Triantafillou et al. 2020",
    ),
    "low-shot": Entry(
        "fewsight.workflows.split_protocols:evaluate_on_splits",
        "1, 2, 5 photos a class or 1 and 10 %: logistic regression and k-NN on frozen features",
        "Assran et al. 2022",
    ),
    "knn": Entry(
        "fewsight.workflows.split_protocols:evaluate_on_splits",
        "the photos of one split vote for those of another",
        "Caron et al. 2021",
    ),
    "multi-label": Entry(
        "fewsight.workflows.split_protocols:evaluate_on_splits",
        "photos with several labels: mAP, CF1, OF1",
        "Chen et al. 2019 (measures)",
    ),
    "segmentation": Entry(
        "fewsight.workflows.split_segmentation:evaluate_on_masks",
        "a linear layer on patch tokens, mean IoU",
        "Oquab et al. 2023",
    ),
    "few-shot-segmentation": Entry(
        "fewsight.workflows.few_shot_segmentation:evaluate_few_shot_segmentation",
        "what and where on folds of the classes of any folder with masks",
        "Kang, Cho 2022",
    ),
    "pascal-5i": Entry(
        "fewsight.workflows.few_shot_segmentation:evaluate_few_shot_segmentation",
        "the same on VOC2012 with the published folds and episodes",
        "Shaban et al. 2017; Kang, Cho 2022",
    ),
    "coco-20i": Entry(
        "fewsight.workflows.few_shot_segmentation:evaluate_few_shot_segmentation",
        "the same on COCO 2014 with the published folds and episodes",
        "Nguyen, Todorovic 2019; Kang, Cho 2022",
    ),
    "fss-1000": Entry(
        "fewsight.workflows.few_shot_segmentation:evaluate_few_shot_segmentation",
        "where, on the 240 test classes of FSS-1000",
        "Li et al. 2020; Min, Kang, Cho 2021",
    ),
}

TABLES: dict[str, dict[str, Entry]] = {
    "heads": HEADS,
    "dense heads": DENSE_HEADS,
    "objectives": OBJECTIVES,
    "protocols": PROTOCOLS,
}

# name in `fewsight` -> "module:attribute"
PUBLIC: dict[str, str] = {
    "FewShotClassifier": "fewsight.classifier:FewShotClassifier",
    "FewShotSegmenter": "fewsight.segmenter:FewShotSegmenter",
    "load_backbone": "fewsight.backbones.loading:load_backbone",
    "load_model": "fewsight.workflows.load_model:load_model",
    "predict": "fewsight.workflows.predict:predict",
    "segment": "fewsight.workflows.segment:segment",
    "doctor": "fewsight.workflows.doctor:doctor",
    "embed": "fewsight.workflows.embed:embed",
    "evaluate": "fewsight.workflows.evaluate:evaluate",
    "metatrain": "fewsight.workflows.metatrain:metatrain",
    "adapt": "fewsight.workflows.adapt:adapt",
    "pretrain": "fewsight.workflows.pretrain:pretrain",
    "study": "fewsight.workflows.study:study",
    "geometry": "fewsight.workflows.geometry:geometry",
    "neighbours": "fewsight.workflows.neighbours:neighbours",
}


def choices(table: str) -> list[str]:
    """The names of one table, in its order."""
    return list(TABLES[table])


def closest(name: str, known: list[str]) -> str:
    """A hint for an unknown name: the nearest known one, or all of them.

    >>> closest("prototype", ["prototypes", "logistic"])
    'Did you mean prototypes?'
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Choose one of: {', '.join(known)}."


def resolve(table: str, name: str) -> Any:
    """The object behind a name of a table.

    Raises:
        InvalidInput: the name is unknown; the message names the nearest one.
    """
    if name not in TABLES[table]:
        raise InvalidInput(f"{name!r} is not among the {table} of fewsight. {closest(name, choices(table))}")
    return load(TABLES[table][name].target)


def load(target: str) -> Any:
    """The attribute at "module:attribute"."""
    module, attribute = target.split(":")
    return getattr(importlib.import_module(module), attribute)
