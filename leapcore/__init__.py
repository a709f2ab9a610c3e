"""Knowledge distillation for vision backbones, with a curriculum over the teacher's layers.

Public names are imported when they are first used, so that ``import leapcore`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leapcore._version import __version__

if TYPE_CHECKING:
    from leapcore.compat import import_timm
    from leapcore.core.alignment import linear_cka, mean_cosine
    from leapcore.core.counting import on_meta
    from leapcore.core.distiller import Distillation, Distiller
    from leapcore.core.duration import Duration, RunLength
    from leapcore.core.features import LayerFeatures, LayerInfo
    from leapcore.core.flops import FlopsLedger, LayerMacs, count_layer_macs, count_macs, count_prefix_macs
    from leapcore.core.matching import Comparison, Match, TeacherFeatures
    from leapcore.core.projection import Projector
    from leapcore.core.provider import ImageInput, LayerFeatureProvider
    from leapcore.core.schedulers import DifficultyScheduler
    from leapcore.data.batches import evaluation_batches
    from leapcore.data.sources import ImageSplits, image_splits
    from leapcore.errors import LeapcoreError
    from leapcore.evaluation.extract import Features, extract_features
    from leapcore.evaluation.knn import knn_accuracy
    from leapcore.evaluation.linear_probe import linear_probe
    from leapcore.export.student import export_student
    from leapcore.models.build import build_backbone
    from leapcore.models.timm_models import create_timm_model, timm_image_input
    from leapcore.models.weights import load_weights
    from leapcore.plugins.events import RunReport
    from leapcore.plugins.hooks import hookimpl
    from leapcore.spec import Spec
    from leapcore.spec.file import load_spec
    from leapcore.tools.evaluate import evaluate_model
    from leapcore.train.run import run
    from leapcore.train.schedules import build_scheduler

_HOME = {
    "Comparison": "core.matching",
    "DifficultyScheduler": "core.schedulers",
    "Distillation": "core.distiller",
    "Distiller": "core.distiller",
    "Duration": "core.duration",
    "Features": "evaluation.extract",
    "FlopsLedger": "core.flops",
    "ImageInput": "core.provider",
    "ImageSplits": "data.sources",
    "LayerFeatureProvider": "core.provider",
    "LayerFeatures": "core.features",
    "LayerInfo": "core.features",
    "LayerMacs": "core.flops",
    "LeapcoreError": "errors",
    "Match": "core.matching",
    "Projector": "core.projection",
    "RunLength": "core.duration",
    "RunReport": "plugins.events",
    "Spec": "spec",
    "TeacherFeatures": "core.matching",
    "build_backbone": "models.build",
    "build_scheduler": "train.schedules",
    "count_layer_macs": "core.flops",
    "count_macs": "core.flops",
    "count_prefix_macs": "core.flops",
    "create_timm_model": "models.timm_models",
    "evaluate_model": "tools.evaluate",
    "evaluation_batches": "data.batches",
    "export_student": "export.student",
    "extract_features": "evaluation.extract",
    "hookimpl": "plugins.hooks",
    "image_splits": "data.sources",
    "import_timm": "compat",
    "knn_accuracy": "evaluation.knn",
    "linear_cka": "core.alignment",
    "linear_probe": "evaluation.linear_probe",
    "load_spec": "spec.file",
    "load_weights": "models.weights",
    "mean_cosine": "core.alignment",
    "on_meta": "core.counting",
    "run": "train.run",
    "timm_image_input": "models.timm_models",
}

__all__ = [
    "Comparison",
    "DifficultyScheduler",
    "Distillation",
    "Distiller",
    "Duration",
    "Features",
    "FlopsLedger",
    "ImageInput",
    "ImageSplits",
    "LayerFeatureProvider",
    "LayerFeatures",
    "LayerInfo",
    "LayerMacs",
    "LeapcoreError",
    "Match",
    "Projector",
    "RunLength",
    "RunReport",
    "Spec",
    "TeacherFeatures",
    "__version__",
    "build_backbone",
    "build_scheduler",
    "count_layer_macs",
    "count_macs",
    "count_prefix_macs",
    "create_timm_model",
    "evaluate_model",
    "evaluation_batches",
    "export_student",
    "extract_features",
    "hookimpl",
    "image_splits",
    "import_timm",
    "knn_accuracy",
    "linear_cka",
    "linear_probe",
    "load_spec",
    "load_weights",
    "mean_cosine",
    "on_meta",
    "run",
    "timm_image_input",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'leapcore' has no attribute '{name}'")
    return getattr(import_module(f"leapcore.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
