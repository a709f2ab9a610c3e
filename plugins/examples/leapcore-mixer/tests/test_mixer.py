from leapcore_mixer.provider import MixerProvider
from leapcore_mixer.scheduler import GeometricScheduler

from leapcore import RunLength
from leapcore.testing import check_backbone, check_scheduler

SMALL = {"patch_size": 8, "num_blocks": 3, "embed_dim": 24}


def test_the_backbone_keeps_every_rule():
    check_backbone(MixerProvider.build, image_size=32, options=SMALL)


def test_the_scheduler_keeps_every_rule():
    check_scheduler(GeometricScheduler, options={"ratio": 2})


def test_deep_layers_get_more_steps():
    scheduler = GeometricScheduler(3, ratio=2)
    scheduler.run = RunLength(total_steps=70, steps_per_epoch=10)
    scheduler.start(None)
    targets = [scheduler.target for _ in range(70) if scheduler.step(None) or True]
    assert [targets.count(layer) for layer in range(3)] == [9, 20, 41]
