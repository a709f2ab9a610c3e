"""Checkpoints on disk: written whole or not at all, checked before they are used.

``checkpoints/step-00001200`` holds ``state.json`` (everything that is a number or a text, and the sizes and
checksums of the other two), ``weights.safetensors`` (the distiller: student and projectors) and
``optimizer.safetensors``. ``checkpoints/latest`` names the newest. There is no pickle and no teacher.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leapcore.errors import CheckpointError
from leapcore.files import remove_partial, sync, sync_folder, write_whole

if TYPE_CHECKING:  # a run's folder is looked at before torch is imported
    from torch import Tensor, nn

FORMAT = 1
STATE, WEIGHTS, OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"
_PARTIAL = ".partial"


@dataclass
class Checkpoint:
    """A run as it was after a step.

    Attributes:
        path: Its folder.
        state: Numbers and texts.
        weights: The distiller's state dict.
        optimizer: What the optimizer remembers, tensor by tensor.
    """

    path: Path
    state: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    def restore_weights(self, distiller: nn.Module) -> None:
        """Put the weights into a distiller of the same shape.

        Raises:
            CheckpointError: It has another shape.
        """
        try:
            distiller.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"checkpoint '{self.path}' does not fit this student and teacher: "
                f"{' '.join(str(error).split())[:300]}",
                "Go on with the models that it was made with.",
            ) from error


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: The run's folder ``checkpoints``, which need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """All that are complete, oldest first."""
        return sorted(path.name for path in self.folder.glob("step-*") if path.is_dir())

    def latest(self) -> str | None:
        """The newest, None if there is none."""
        try:
            named = (self.folder / "latest").read_text().strip()
        except OSError:
            named = ""
        names = self.names()
        return named if named in names else next(reversed(names), None)

    def save(self, step: int, saved: Checkpoint, *, keep: int) -> None:
        """Write a checkpoint, let ``latest`` name it, and remove the oldest beyond ``keep``.

        A kill at any moment leaves the one before whole, and ``latest`` naming a whole one.

        Raises:
            OSError: It cannot be written; nothing of it is left.
            TypeError, ValueError: Its state cannot be written as JSON; nothing of it is left.
        """
        name = f"step-{step:08}"
        partial = self.folder / (_PARTIAL + name)
        self.clean()
        try:
            partial.mkdir(parents=True)
            _write(partial, saved)
            self._remove(name)  # the same step again, after a resume from one before it
            partial.rename(self.folder / name)
            sync_folder(self.folder)
            self.point_at(name)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        before = [other for other in self.names() if other < name]
        after = [other for other in self.names() if other > name]  # of a course that was given up
        for old in before[: -(keep - 1) or None] + after:
            self._remove(old)

    def point_at(self, name: str) -> None:
        """Let ``latest`` name this one."""
        write_whole(self.folder / "latest", name, synced=True)

    def _remove(self, name: str) -> None:
        """A kill meanwhile leaves it whole, or what :meth:`clean` removes."""
        gone = self.folder / f"{_PARTIAL}-old-{name}"
        with suppress(FileNotFoundError):
            (self.folder / name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def clean(self) -> None:
        """Remove what a kill left half written."""
        remove_partial(self.folder / "latest")
        for path in self.folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(path, ignore_errors=True)

    def load(self, name: str | None = None) -> Checkpoint:
        """Read one, the newest if none is named.

        Raises:
            CheckpointError: There is none, or it is broken; the message names the one before.
        """
        chosen = name or self.latest()
        if chosen is None or chosen not in self.names():
            known = ", ".join(self.names())
            raise CheckpointError(
                f"there is no checkpoint {chosen or ''} in '{self.folder}'".replace("  ", " "),
                f"There are: {known}." if known else "Its spec may say checkpoint.every: never.",
            )
        try:
            return _read(self.folder / chosen)
        except _Broken as broken:
            raise CheckpointError(
                f"checkpoint '{self.folder / chosen}' cannot be used: {broken}", self._instead_of(chosen)
            ) from broken

    def _instead_of(self, name: str) -> str:
        before = [other for other in self.names() if other < name]
        if before:
            return (
                f"The one before it is {before[-1]}: name it with --resume, or with --checkpoint to export."
            )
        return "There is none before it: start again with --overwrite."


class _Broken(Exception):
    """What is wrong with a checkpoint."""


def _write(folder: Path, saved: Checkpoint) -> None:
    from safetensors.torch import save

    files = {}
    for name, tensors in ((WEIGHTS, saved.weights), (OPTIMIZER, saved.optimizer)):
        content = save(tensors)
        _write_synced(folder / name, content)
        files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    state = {"format": FORMAT, "files": files, **saved.state}
    _write_synced(folder / STATE, json.dumps(state).encode())
    sync_folder(folder)


def _read(folder: Path) -> Checkpoint:
    from safetensors.torch import load

    with _broken_files_named():
        state = json.loads((folder / STATE).read_bytes())
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise _Broken(f"{STATE} is not of a checkpoint that this version of leapcore reads")
        weights, optimizer = (_checked(folder / name, state["files"][name]) for name in (WEIGHTS, OPTIMIZER))
        return Checkpoint(folder, state, load(weights), load(optimizer))


@contextmanager
def _broken_files_named() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _Broken(f"{Path(error.filename).name} is missing") from error
    except _Broken:
        raise
    # Files of a stranger can be wrong in any way.
    except Exception as error:
        raise _Broken(f"it cannot be read ({type(error).__name__}: {error})") from error


def _checked(path: Path, recorded: dict[str, Any]) -> bytes:
    content = path.read_bytes()
    if len(content) != recorded["bytes"]:
        raise _Broken(f"{path.name} has {len(content):,} bytes, not {recorded['bytes']:,}")
    if hashlib.sha256(content).hexdigest() != recorded["sha256"]:
        raise _Broken(f"{path.name} was changed after it was written")
    return content


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        sync(file)
