"""Faults, tested by doing them: runs are killed, starved and robbed of their files, and go on.

    python benchmarks/faults.py --times 100
    python benchmarks/faults.py --only kill9 --only disk --times 20

Every fault is done to ``leapcore run`` in processes of its own, on the quickstart with other lengths. A fault
is survived if the run says what happened, ends as it should and keeps a whole checkpoint, and if it then,
resumed, gives the student of the undisturbed run bit for bit, with the same losses on the way.

Writes the runs that were lost and ``faults.json`` under --output; prints a Markdown table. ``--times`` is for
``kill9``, the others take a share of it. Needs Linux; ``disk`` mounts a small file system where it may, and
limits the size of files where it may not.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fault_tools as tools
from fault_tools import Command, Lane, Strike, Tally
from PIL import Image, ImageChops, ImageStat

from leapcore.data.images import read_or_next

SECONDS = 6.0  # of training, among which the moment of a fault is drawn


class Desk:
    """Where a campaign works.

    Args:
        arguments: Of the command line.
        name: The campaign's.
    """

    def __init__(self, arguments: argparse.Namespace, name: str) -> None:
        self.folder = (arguments.output / name).absolute()
        self.jobs, self.seed = arguments.jobs, arguments.seed
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def strike(
        self, strike: Strike, times: int, *settings: str, processes: int = 1, jobs: int | None = None
    ) -> Tally:
        """Strike in as many lanes at once as there are jobs, each with its share of the times."""
        tally, jobs = Tally(), min(jobs or self.jobs, times)
        calm = tools.calm(self.folder / "calm", *settings, processes=processes)
        with ThreadPoolExecutor(jobs) as pool:
            going = []
            for number in range(jobs):
                lane = Lane(self.folder / f"{number}", strike, tally, *settings, processes=processes)
                share = times // jobs + (number < times % jobs)
                going.append(pool.submit(lane.go, share, self.seed + number, calm))
        for lane_ended in going:
            lane_ended.result()
        return tally


def kill9(desk: Desk, times: int) -> Tally:
    """SIGKILL at any moment; two in five while a checkpoint is written."""
    return desk.strike(_kill, times)


def _kill(command: Command, draw: random.Random) -> tuple[bool, str] | None:
    inside = draw.random() < 0.4
    _wait(command, draw, started=0.9)
    if inside:
        command.until(lambda: command.training and tools.half_written(command.folder))
        time.sleep(0.03 * draw.random())
    if not command.alive:
        return None
    phase = "in training" if command.training else "while starting"
    command.process.kill()
    code = command.code()
    return code == 137, "while a checkpoint was written" if tools.half_written(command.folder) else phase


def _wait(command: Command, draw: random.Random, *, started: float) -> None:
    """Until a random moment of a run; after its start in this share of the cases."""
    if draw.random() < started:
        command.until(lambda: command.training)
    command.until(lambda: False, patience=SECONDS * draw.random())


def sigterm(desk: Desk, times: int) -> Tally:
    """SIGTERM at any moment: saved at once, with a message."""
    return desk.strike(_terminate, times)


def _terminate(command: Command, draw: random.Random) -> tuple[bool, str] | None:
    _wait(command, draw, started=0.8)
    if not command.alive:
        return None
    phase = "in training" if command.training else "while starting"
    command.process.terminate()
    code = command.code(30)
    if not command.text:
        return code == 143, f"exit code {code} before it said anything"
    if command.says("finished"):
        return code in (0, 143), f"exit code {code} after the run had finished"
    told = command.says("Error: stopped")
    return code == 143 and told, f"exit code {code} {phase}" + ("" if told else ", without a message")


def rank(desk: Desk, times: int) -> Tally:
    """SIGKILL of one of two processes that share a run: the other one ends, too."""
    return desk.strike(_kill_rank, times, processes=2, jobs=1)


def _kill_rank(command: Command, draw: random.Random) -> tuple[bool, str] | None:
    _wait(command, draw, started=1)
    ranks = tools.children(command.process.pid)[:2]
    if len(ranks) < 2:
        return None
    victim, started = draw.randrange(2), time.time()
    tools.kill(ranks[victim])
    code, seconds = command.code(60), time.time() - started
    left = [process for process in ranks if tools.alive(process)]
    if command.says("finished"):
        return not left, f"rank {victim} killed after the run had finished: exit code {code}"
    told = command.says("is gone", "--resume")
    look = f"rank {victim} killed: exit code {code}" + (f" after {seconds:.0f} s" if seconds > 5 else "")
    return code not in (0, 124) and told and not left, look + ("" if told else ", without a message")


def worker(desk: Desk, times: int) -> Tally:
    """SIGKILL of a process that loads images."""
    return desk.strike(_kill_worker, times, "data.workers=2")


def _kill_worker(command: Command, draw: random.Random) -> tuple[bool, str] | None:
    _wait(command, draw, started=1)
    workers = tools.children(command.process.pid)
    if not workers:
        return None
    tools.kill(draw.choice(workers))
    code = command.code()
    told = command.says("a process that loads images died")
    return code == 2 and told, f"exit code {code}" + ("" if told else ", without a message")


def vanish(desk: Desk, times: int) -> Tally:
    """The folder of images is moved away in mid-run, and back before the run is resumed."""
    files = desk.folder / "digits"
    tools.write_digits(files)
    return desk.strike(lambda *a: _take_away(files, *a), times, *_folders(files), jobs=1)


def _take_away(files: Path, command: Command, draw: random.Random) -> tuple[bool, str] | None:
    _wait(command, draw, started=1)
    files.rename(files.with_name("away"))
    code = command.code()
    files.with_name("away").rename(files)
    if code == 0:
        return None
    told = command.says("cannot be used", "Are the files still there?")
    return code == 2 and told, f"exit code {code}" + ("" if told else ", without a message")


def _folders(files: Path) -> tuple[str, ...]:
    return "data.source=folder", f"data.train={files}/train", f"data.val={files}/val"


def disk(desk: Desk, times: int) -> Tally:
    """The disk is full while the run saves: it says so and keeps what it had; with more room it goes on."""
    tally, draw = Tally(), random.Random(desk.seed)
    calm = tools.calm(desk.folder / "calm", "train.duration=60st")
    for number in range(times):
        run = desk.folder / f"{number}"
        kilobytes = draw.choice((600, 2_600, 4_800, 5_600)) + draw.randrange(500)
        with tools.small_disk(run, kilobytes) as mounted:
            tally.note(*_on_small_disk(run, kilobytes, calm, mounted))
    return tally


def _on_small_disk(run: Path, kilobytes: int, calm: Path, mounted: bool) -> tuple[bool, str]:
    limit = None if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 200,) * 2)
    command = Command(run, "train.duration=60st", before=limit)
    code, kept = command.code(), tools.newest(run)
    told = command.says("No space left" if mounted else "File too large")
    look = f"exit code {code}, {'no' if kept is None else 'a'} checkpoint kept"
    if not told or code not in (0, 2) or kept == -1:
        return False, f"{look}: {command.text[-150:]}"
    if mounted:
        tools.enlarge(run)
    again = Command(run, "train.duration=60st").code() if code else 0
    return again == 0 and tools.alike(run, calm), look


def images(desk: Desk, times: int) -> Tally:
    """Files of all kinds among the images: what can be read is used, the rest is skipped and counted."""
    tally, files = Tally(), desk.folder / "digits"
    plain = tools.write_digits(files)
    kinds = {**tools.READABLE, **tools.BROKEN}
    chosen = dict(zip(kinds, plain[7::20], strict=False))
    originals = {kind: Image.open(path).convert("L") for kind, path in chosen.items()}
    for kind, path in chosen.items():
        kinds[kind](path)
    command = Command(desk.folder / "run", *_folders(files), "data.skip_limit=0.05", "train.duration=3ep")
    code, log = command.code(), desk.folder / "run" / "skipped.log"
    skipped = log.read_text() if log.exists() else ""
    for kind, path in chosen.items():
        used = str(path) not in skipped
        right = not used or _shows(path, originals[kind])
        fine = code == 0 and right and used == (kind in tools.READABLE)
        tally.note(fine, f"{kind} {'used' if used else 'skipped'}" + ("" if right else " with other pixels"))
    tally.note(*_over_the_limit(desk.folder / "over", files))
    return tally


def _shows(path: Path, original: Image.Image) -> bool:
    """Whether an image is read as what it was made of."""
    (seen,) = [read_or_next([(path.read_bytes(), 0)], 0).image.convert("L")]
    mean: float = ImageStat.Stat(ImageChops.difference(seen, original)).mean[0]
    return mean < 4


def _over_the_limit(run: Path, files: Path) -> tuple[bool, str]:
    """Too many broken images end the run, which goes on when they are mended."""
    settings = (*_folders(files), "data.skip_limit=0.017", "train.duration=3ep")
    command = Command(run, *settings)
    code, kept = command.code(), tools.newest(run)
    told = command.says("more than the 1.7% that data.skip_limit allows")
    tools.write_digits(files)
    again = Command(run, *settings).code()
    look = f"over the limit: exit code {code}, {'no' if kept is None else 'a'} checkpoint, resumed: {again}"
    return code == 2 and told and kept not in (None, -1) and again == 0, look


def nan(desk: Desk, times: int) -> Tally:
    """Losses that are not finite: the run ends, or goes on to its end; no such step changes a weight."""
    tally, wild = Tally(), ("optimizer.lr=1e30", "optimizer.clip=0", "optimizer.warmup=0st")
    students = []
    for policy, code in (("1", 2), ("3", 2), ("skip", 0)):
        run = desk.folder / policy
        command = Command(run, *wild, f"train.nonfinite_steps={policy}", "train.duration=20st")
        ended = command.code()
        told = command.says("the loss was not finite", "optimizer.lr") if code else command.says("finished")
        students.append((run / "student" / "model.safetensors").read_bytes())
        fine = ended == code and told and students[-1] == students[0]
        tally.note(fine, f"nonfinite_steps={policy}: exit code {ended}")
    return tally


def memory(desk: Desk, times: int) -> Tally:
    """Less memory than a batch takes."""
    tally = Tally()
    for gibibytes in (2, 3, 4):
        size = gibibytes * 2**30
        command = Command(
            desk.folder / f"{gibibytes}",
            *("train.batch_size=1437", "data.image_size=224", "train.duration=4st"),
            before=lambda size=size: resource.setrlimit(resource.RLIMIT_AS, (size, size)),
        )
        code = command.code()
        told = command.says("out of memory", "engine.accumulate", "train.batch_size")
        tally.note(code == 2 and told, f"{gibibytes} GiB: exit code {code}")
    return tally


def lock(desk: Desk, times: int) -> Tally:
    """A folder that is in use is refused; after a SIGKILL of its user it is free at once."""
    tally, calm = Tally(), tools.calm(desk.folder / "calm")
    for number in range(times):
        run = desk.folder / f"{number}"
        first = Command(run)
        first.until(lambda run=run: tools.newest(run) not in (None, -1))
        second = Command(run, log=run.with_name("second.log"))
        code, told = second.code(), second.says(f"in use by process {first.process.pid}")
        living = first.alive
        first.process.kill()
        first.code()
        again = Command(run).code()
        fine = code == 2 and told and living and again == 0 and tools.alike(run, calm)
        tally.note(fine, f"second: exit code {code}; after SIGKILL of the first: {again}")
    return tally


# A campaign's share of --times; the small ones do each of their kinds once.
SHARES = {kill9: 1.0, sigterm: 0.25, rank: 0.1, worker: 0.1, vanish: 0.1, disk: 0.1, lock: 0.03}
CAMPAIGNS = {campaign.__name__: campaign for campaign in (*SHARES, images, nan, memory)}


def main() -> None:
    arguments = _arguments()
    told = {}
    for name in arguments.only or CAMPAIGNS:
        campaign, started = CAMPAIGNS[name], time.time()
        times = max(1, round(arguments.times * SHARES.get(campaign, 0)))
        told[name] = campaign(Desk(arguments, name), times).as_dict() | {"seconds": time.time() - started}
        (arguments.output / "faults.json").write_text(json.dumps(told, indent=1))
        print(name, told[name], flush=True)
    print(table(told))


def table(told: dict[str, dict]) -> str:
    """A line per campaign as Markdown."""
    lines = ["| kind | times | survived | lost | how it looked |", "| --- | --- | --- | --- | --- |"]
    for name, tally in told.items():
        looks = "; ".join(f"{count} x {' '.join(look.split())}" for look, count in tally["looks"].items())
        lines.append(f"| {name} | {tally['times']} | {tally['survived']} | {tally['lost']} | {looks} |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="kills of kill9; the others take a share")
    parser.add_argument(
        "--only", action="append", choices=CAMPAIGNS, metavar="NAME", help=", ".join(CAMPAIGNS)
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/faults"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
