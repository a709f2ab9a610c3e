"""Loading weights into networks that timm does not know."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from leapcore.errors import WeightsError, short_message
from leapcore.spec.paths import weights_path


def load_weights(network: nn.Module, weights: str) -> None:
    """Fill a network from what a spec gives as ``weights``.

    Args:
        network: The network, changed in place; every tensor must be there, and none may be left over.
        weights: ``"none"`` (leave it as it is), a ``.safetensors`` file, a ``.pth`` file that loads with
            ``weights_only=True``, or a folder with ``model.safetensors``, such as a run's student.

    Raises:
        WeightsError: They are missing, unreadable or of another architecture.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> trained, network = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(trained.state_dict(), f"{folder}/linear.pth")
        ...     load_weights(network, f"{folder}/linear.pth")
        >>> torch.equal(network.weight, trained.weight)
        True
    """
    path = weights_path(weights)
    if weights == "pretrained":
        raise WeightsError(
            f"{type(network).__name__} has no weights to download", "Give a file or a folder, or 'none'."
        )
    if path is None:
        return
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        _load(network, file)
    # Files can be wrong in any way, and each library raises its own errors.
    except Exception as error:
        raise misfit(file, type(network).__name__, short_message(error)) from error


def misfit(file: Path, model: str, reason: str) -> WeightsError:
    """The error of weights that are not this model's."""
    return WeightsError(
        f"weights '{file}' cannot be loaded into {model}: {reason}",
        "Give weights of this very architecture, and the options that they were made with.",
    )


def _load(network: nn.Module, file: Path) -> None:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_model  # it knows that tied weights are written once

        load_model(network, file)
    else:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
