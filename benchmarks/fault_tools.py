"""What ``faults.py`` needs: runs in processes of their own, what is left of them, and images of all kinds."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from leapcore.checkpoints.files import Checkpoints
from leapcore.errors import CheckpointError

# Some seconds of training, a checkpoint about every third of a second, and a target that moves.
SHORT = (
    "train.duration=200st",
    "checkpoint.every=5st",
    "curriculum.max_time_per_layer=15st",
    "evaluate.knn=never",
    "evaluate.linear=never",
)
COMPARED = ("step", "loss", "target_layer", "alignment")


class Tally:
    """How often a fault was done, how often the run came through, and what it looked like."""

    def __init__(self) -> None:
        self.survived, self.lost = 0, 0
        self.looks: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, fine: bool, look: str, times: int = 1) -> None:
        """Count it."""
        with self._lock:
            self.survived += times * fine
            self.lost += times * (not fine)
            self.looks[look if fine else f"LOST: {look}"] += times

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        times = self.survived + self.lost
        return {"times": times, "survived": self.survived, "lost": self.lost, "looks": dict(self.looks)}


class Command:
    """``leapcore run`` in a process of its own, which goes on with what is in its folder.

    Args:
        folder: The run's output.
        settings: Overrides of the quickstart recipe, after :data:`SHORT`.
        processes: How many share the run.
        before: Called in the new process before it starts, such as to limit it.
        log: Takes what it says; ``FOLDER.log`` if not given.
    """

    def __init__(
        self,
        folder: Path,
        *settings: str,
        processes: int = 1,
        before: Callable[[], None] | None = None,
        log: Path | None = None,
    ) -> None:
        self.folder = folder
        self.log = log or folder.with_name(folder.name + ".log")
        self.started = time.time()
        words = ["run", "quickstart", "--output", str(folder), "--processes", str(processes)]
        words += ["--resume", "auto"]
        words += [word for setting in (*SHORT, *settings) for word in ("--set", setting)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "leapcore", *words], stdout=log, stderr=log, preexec_fn=before
            )

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    @property
    def text(self) -> str:
        """What it said so far."""
        return self.log.read_text(errors="replace")

    @property
    def training(self) -> bool:
        """Whether it has opened its folder, rather than still being loaded."""
        metrics = self.folder / "metrics.jsonl"
        return metrics.exists() and metrics.stat().st_mtime > self.started

    def code(self, patience: float = 300) -> int:
        """How it ended, counted as the shell does: 137 after SIGKILL, 124 if it would not end."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return 124
        return code if code >= 0 else 128 - code

    def until(self, happened: Callable[[], Any], patience: float = 60, pause: float = 0.001) -> bool:
        """Wait for something, as long as the process lives."""
        end = time.time() + patience
        while not (done := happened()) and self.alive and time.time() < end:
            time.sleep(pause)
        return bool(done)

    def says(self, *words: str) -> bool:
        """Whether it said all of this, and gave no traceback."""
        text = " ".join(self.text.split())
        return "Traceback" not in text and all(word in text for word in words)


# Done to a living run: whether it ended as it should, and what that looked like. None if it had ended before.
Strike = Callable[[Command, random.Random], "tuple[bool, str] | None"]


class Lane:
    """Strikes one run after another, resumes each until it is finished, and compares it with a calm one.

    Args:
        folder: For the runs.
        strike: The fault.
        tally: Where it is counted.
        settings: Of all the runs.
        processes: That share each run.
    """

    def __init__(
        self, folder: Path, strike: Strike, tally: Tally, *settings: str, processes: int = 1
    ) -> None:
        self.folder, self.strike, self.tally = folder, strike, tally
        self.settings, self.processes = settings, processes

    def go(self, times: int, seed: int, calm: Path) -> None:
        """Strike so many times in all."""
        draw, number = random.Random(seed), 0
        while times > 0:
            run, number = self.folder / f"{number}", number + 1
            looks = self._one_run(run, times, draw)
            times -= len(looks)
            same = (run / "student").exists() and alike(run, calm)
            for fine, look in looks:
                self.tally.note(fine and same, look if same else f"{look}, and then another result")
            if same:
                shutil.rmtree(run)

    def _one_run(self, run: Path, times: int, draw: random.Random) -> list[tuple[bool, str]]:
        """Strike and resume until it is finished."""
        looks: list[tuple[bool, str]] = []
        while True:
            command = Command(run, *self.settings, processes=self.processes)
            seen = self.strike(command, draw) if len(looks) < times else None
            if seen is None:
                if code := command.code():
                    looks.append((False, f"exit code {code} by itself: {command.text[-200:]}"))
                return looks
            fine = seen[0] and newest(run) != -1
            if not fine:
                shutil.copy(command.log, run.with_name(f"{run.name}-lost-{len(looks)}.log"))
            looks.append((fine, seen[1]))


def calm(folder: Path, *settings: str, processes: int = 1) -> Path:
    """The undisturbed run that others are compared with; run once."""
    if not (folder / "student").exists():
        code = Command(folder, *settings, processes=processes).code(600)
        if code:
            raise SystemExit(f"the undisturbed run {folder} failed, see {folder}.log")
    return folder


def alike(one: Path, other: Path) -> bool:
    """Whether two runs gave the same student, bit for bit, and went the same way."""
    students = [(run / "student" / "model.safetensors").read_bytes() for run in (one, other)]
    return students[0] == students[1] and course(one) == course(other)


def course(run: Path) -> list[list[Any]]:
    """What the lines with a loss say."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [[line.get(name) for name in COMPARED] for line in lines if "loss" in line]


def newest(run: Path) -> int | None:
    """Step of the newest checkpoint, read in full; None if there is none yet, -1 if it is broken."""
    checkpoints = Checkpoints(run / "checkpoints")
    if checkpoints.latest() is None:
        return None
    try:
        return int(checkpoints.load().state["step"])
    except CheckpointError:
        return -1


def half_written(run: Path) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed."""
    folder = run / "checkpoints"
    with suppress(FileNotFoundError):
        return any(".partial" in entry.name for entry in os.scandir(folder))
    return False


def children(parent: int) -> list[int]:
    """Living processes that were started by another, oldest first."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return sorted(process for process in found if _state_and_parent(process) == ("alive", parent))


def alive(process: int) -> bool:
    """Whether a process still runs."""
    return _state_and_parent(process)[0] == "alive"


def _state_and_parent(process: int) -> tuple[str, int]:
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "gone", 0
    return "gone" if state == "Z" else "alive", int(parent)


def kill(process: int) -> None:
    """Send SIGKILL to a process that may be gone by now."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[bool]:
    """A file system of that size at a folder; False where this user may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "leapcore-faults", str(folder)]
    mounted = subprocess.run(options, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def enlarge(folder: Path) -> None:
    """Give a small disk all the room that a run needs."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)


def write_digits(root: Path, *, train: int = 256, val: int = 64) -> list[Path]:
    """scikit-learn's digits as PNG files in class folders, 32 pixels wide; the training files."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    files = []
    for number in range(train + val):
        digit = Image.fromarray((bunch.images[number] * (255 / 16)).astype("uint8"))
        part = "train" if number < train else "val"
        files.append(root / part / str(bunch.target[number]) / f"{number:04}.png")
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        digit.resize((32, 32)).save(files[-1])
    return files[:train]


def _saved(how: Callable[[Image.Image], Image.Image], form: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        how(Image.open(path).convert("L")).save(path, form)

    return write


def _sixteen_bits(image: Image.Image) -> Image.Image:
    wide = [257 * value for value in image.tobytes()]
    return Image.frombytes("I;16", image.size, struct.pack(f"<{len(wide)}H", *wide))


def _transparent(image: Image.Image) -> Image.Image:
    image = image.convert("RGB")
    image.putalpha(128)
    return image


def _bomb(path: Path) -> None:
    """A header that promises 400 million pixels."""
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])


# Done to a digit's file, which keeps its name.
READABLE: dict[str, Callable[[Path], None]] = {
    "greyscale": _saved(lambda image: image, "PNG"),
    "palette": _saved(lambda image: image.convert("P"), "PNG"),
    "RGBA": _saved(_transparent, "PNG"),
    "CMYK JPEG": _saved(lambda image: image.convert("CMYK"), "JPEG"),
    "16-bit": _saved(_sixteen_bits, "PNG"),
}
BROKEN: dict[str, Callable[[Path], None]] = {
    "corrupt": lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" * 40 + path.read_bytes()[100:]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-60]),
    "zero bytes": lambda path: path.write_bytes(b""),
    "not an image": lambda path: path.write_text("no image at all\n"),
    "decompression bomb": _bomb,
}
