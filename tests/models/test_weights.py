"""Weights of networks that timm does not know."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from leapcore import load_weights
from leapcore.errors import WeightsError
from leapcore.export.student import export_student, load_line


def _tied():
    network = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    return network


def test_a_network_with_tied_weights_is_loaded_from_its_export(tmp_path):
    network, other = _tied(), _tied()
    export_student(SimpleNamespace(model=network), tmp_path)
    load_weights(other, str(tmp_path))
    assert torch.equal(other[2].weight, network[0].weight)
    assert "load_file" in load_line(tmp_path)


def test_a_checkpoint_in_torchs_own_format(tmp_path):
    network, other = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    load_weights(other, str(tmp_path / "w.pth"))
    assert torch.equal(other.weight, network.weight)


@pytest.mark.parametrize(
    ("weights", "message"), [("pretrained", "no weights to download"), ("none.pth", "do not exist")]
)
def test_weights_that_are_not_there(weights, message):
    with pytest.raises(WeightsError, match=message):
        load_weights(nn.Linear(2, 2), weights)


def test_weights_of_another_network_are_named(tmp_path):
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        WeightsError, match=r"cannot be loaded into Linear: .*size mismatch.*\nGive weights of this"
    ):
        load_weights(nn.Linear(2, 2), str(tmp_path / "w.pth"))
