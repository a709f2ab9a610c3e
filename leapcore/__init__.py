"""Knowledge distillation for vision backbones, with a curriculum over the teacher's layers.

Public names are imported when they are first used, so that ``import leapcore`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leapcore._version import __version__

if TYPE_CHECKING:
    from leapcore.backbones import build_backbone
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
    from leapcore.curricula import build_scheduler
    from leapcore.engine.components import image_splits
    from leapcore.engine.data.batches import evaluation_batches
    from leapcore.engine.data.sources import ImageSplits
    from leapcore.engine.model_evaluation import evaluate_model
    from leapcore.engine.run import run
    from leapcore.errors import LeapcoreError
    from leapcore.evaluation.features import Features, extract_features
    from leapcore.evaluation.knn import knn_accuracy
    from leapcore.evaluation.linear_probe import linear_probe
    from leapcore.events import RunReport
    from leapcore.export.student import export_student
    from leapcore.hookspecs import hookimpl
    from leapcore.spec import Spec
    from leapcore.spec_file import load_spec
    from leapcore.timm_models import create_timm_model, timm_image_input
    from leapcore.weights import load_weights

_HOME = {
    "Comparison": "core.matching",
    "DifficultyScheduler": "core.schedulers",
    "Distillation": "core.distiller",
    "Distiller": "core.distiller",
    "Duration": "core.duration",
    "Features": "evaluation.features",
    "FlopsLedger": "core.flops",
    "ImageInput": "core.provider",
    "ImageSplits": "engine.data.sources",
    "LayerFeatureProvider": "core.provider",
    "LayerFeatures": "core.features",
    "LayerInfo": "core.features",
    "LayerMacs": "core.flops",
    "LeapcoreError": "errors",
    "Match": "core.matching",
    "Projector": "core.projection",
    "RunLength": "core.duration",
    "RunReport": "events",
    "Spec": "spec",
    "TeacherFeatures": "core.matching",
    "build_backbone": "backbones",
    "build_scheduler": "curricula",
    "count_layer_macs": "core.flops",
    "count_macs": "core.flops",
    "count_prefix_macs": "core.flops",
    "create_timm_model": "timm_models",
    "evaluate_model": "engine.model_evaluation",
    "evaluation_batches": "engine.data.batches",
    "export_student": "export.student",
    "extract_features": "evaluation.features",
    "hookimpl": "hookspecs",
    "image_splits": "engine.components",
    "import_timm": "compat",
    "knn_accuracy": "evaluation.knn",
    "linear_cka": "core.alignment",
    "linear_probe": "evaluation.linear_probe",
    "load_spec": "spec_file",
    "load_weights": "weights",
    "mean_cosine": "core.alignment",
    "on_meta": "core.counting",
    "run": "engine.run",
    "timm_image_input": "timm_models",
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
