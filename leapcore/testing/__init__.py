"""The contract of backbones and schedulers, as checks that a plugin author calls in a test.

    from leapcore.testing import check_backbone

    def test_mine():
        check_backbone(MyProvider.build, image_size=64, model="mynet_tiny")

Each broken rule is named together with what to do about it.
"""

from leapcore.testing.backbone import check_backbone
from leapcore.testing.report import ContractError, ContractReport, RuleResult
from leapcore.testing.scheduler import check_scheduler

__all__ = ["ContractError", "ContractReport", "RuleResult", "check_backbone", "check_scheduler"]
