"""The spec of a run: every section with its keys, their meaning, defaults and limits."""

from leapcore.spec.data import AugmentSpec, DataSpec
from leapcore.spec.engine import CacheSpec, CheckpointSpec, EngineSpec
from leapcore.spec.method import CurriculumSpec, EvaluateSpec, ObjectiveSpec
from leapcore.spec.models import BackboneSpec, TeacherSpec
from leapcore.spec.run import Spec
from leapcore.spec.training import OptimizerSpec, RestartSpec, TrainSpec

__all__ = [
    "AugmentSpec",
    "BackboneSpec",
    "CacheSpec",
    "CheckpointSpec",
    "CurriculumSpec",
    "DataSpec",
    "EngineSpec",
    "EvaluateSpec",
    "ObjectiveSpec",
    "OptimizerSpec",
    "RestartSpec",
    "Spec",
    "TeacherSpec",
    "TrainSpec",
]
