"""Where should a cache's records be kept? leapcore's own files against sqlite3 and, if it is installed, lmdb.

    python benchmarks/cache_stores.py --folder /path/on/the/disk/in/question

All keep what a record needs: run, step and a checksum. Batches of 64 records of 150 kB and 1.5 MB are
written, and read in random order, by one process and by two at once: MB per second and, in brackets, per
second of a processor's time, which depends less on what else the machine does. "disk" is what the files
take over what the records do. Then the time until a cache of 100,000 records (of 1.5 kB) is open, and the
memory that it takes; and how many of some tries left only right records, and a cache that can be written:
writers killed (-9) at some moment, files damaged (a bit, 4 kB, or all after some byte). What else became of
them is named.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import shutil
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from leapcore.cache.records import RecordStore, Stamp, as_batch

BATCH = 64
SIZES = {"150 kB": 196 * 384 * 2, "1.5 MB": 257 * 1536 * 4}


class Own:
    """The cache's own store: a file per batch."""

    def __init__(self, folder: Path, size: int) -> None:
        self.store = RecordStore(folder, {}, 0)

    def append(self, views: list[bytes], records: np.ndarray, step: int) -> None:
        form = [{"grid": None, "tensors": [["float16", records.shape[1] // 2]], "embedding": False}]
        self.store.append(as_batch(views, records, form, Stamp(1, step)))

    def read(self, views: list[bytes]) -> list[bytes | None]:
        return [record[0] if (record := self.store.read(view)) else None for view in views]


class Sqlite:
    """One database, with the rollback journal: a write-ahead log needs memory that all processes share."""

    journal = "TRUNCATE"

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.base = sqlite3.connect(folder / "records.sqlite", timeout=60, isolation_level=None)
        for setting in ("page_size=65536", f"journal_mode={self.journal}", "synchronous=OFF"):
            self.base.execute(f"PRAGMA {setting}")
        columns = "view BLOB PRIMARY KEY, run INTEGER, step INTEGER, checksum INTEGER, record BLOB"
        self.base.execute(f"CREATE TABLE IF NOT EXISTS records ({columns})")

    def append(self, views: list[bytes], records: np.ndarray, step: int) -> None:
        self.base.execute("BEGIN IMMEDIATE")
        rows = ((v, 1, step, zlib.crc32(r), r.data) for v, r in zip(views, records, strict=True))
        self.base.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?)", rows)
        self.base.execute("COMMIT")

    def read(self, views: list[bytes]) -> list[bytes | None]:
        query = "SELECT record, checksum FROM records WHERE view = ?"
        found = (self.base.execute(query, (view,)).fetchone() for view in views)
        return [row[0] if row and zlib.crc32(row[0]) == row[1] else None for row in found]


class SqliteWal(Sqlite):
    """The same with a write-ahead log."""

    journal = "WAL"


class Lmdb:
    """One environment, not synced at each batch."""

    def __init__(self, folder: Path, size: int) -> None:
        import lmdb

        folder.mkdir(parents=True, exist_ok=True)
        self.base = lmdb.open(str(folder), map_size=2**36, sync=False, readahead=False)

    def append(self, views: list[bytes], records: np.ndarray, step: int) -> None:
        with self.base.begin(write=True) as transaction:
            for view, record in zip(views, records, strict=True):
                head = np.array([1, step, zlib.crc32(record)], np.uint64)
                transaction.put(view, b"".join([head.tobytes(), record.data]))

    def read(self, views: list[bytes]) -> list[bytes | None]:
        with self.base.begin(buffers=True) as transaction:
            return [self._checked(transaction.get(view)) for view in views]

    @staticmethod
    def _checked(value: memoryview | None) -> bytes | None:
        record = bytes(value[24:]) if value else b""
        return record if value and zlib.crc32(record) == int.from_bytes(value[16:24], "little") else None


STORES: dict[str, Any] = {"own": Own, "sqlite3": Sqlite, "sqlite3, WAL": SqliteWal, "lmdb": Lmdb}


def view(number: int) -> bytes:
    """A digest."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


@cache
def kinds_of_records(size: int) -> np.ndarray:
    """Bytes that nothing compresses, of 97 kinds (97, size)."""
    return np.random.default_rng(0).integers(0, 256, (97, size), np.uint8)


def batch(number: int, size: int) -> tuple[list[bytes], np.ndarray]:
    """The views of a batch, and their records."""
    numbers = range(number * BATCH, (number + 1) * BATCH)
    return [view(n) for n in numbers], kinds_of_records(size)[[n % 97 for n in numbers]]


def write(name: str, folder: Path, size: int, first: int, count: int, start: Any) -> tuple[float, float]:
    """Write so many batches; MB per second, and per second of processor time."""
    store, _ = STORES[name](folder, size), kinds_of_records(size)
    start.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(first, first + count):
        store.append(*batch(number, size), number)
    return _rates(count * BATCH * size, wall, cpu)


def read(name: str, folder: Path, size: int, seed: int, count: int, start: Any) -> tuple[float, float]:
    """Read so many batches in random order; the same."""
    store = STORES[name](folder, size)
    views = [view(int(n)) for n in np.random.default_rng(seed).permutation(count * BATCH)]
    start.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        assert all(store.read(views[number * BATCH : (number + 1) * BATCH]))
    return _rates(count * BATCH * size, wall, cpu)


def _rates(size: int, wall: float, cpu: float) -> tuple[float, float]:
    return size / 1e6 / (time.perf_counter() - wall), size / 1e6 / (time.process_time() - cpu)


def check(name: str, folder: Path, size: int, count: int) -> tuple[int, int]:
    """How many records are right and wrong; a batch can be written after it."""
    store, right, wrong = STORES[name](folder, size), 0, 0
    for number in range(count * BATCH):
        (content,) = store.read([view(number)])
        if content is not None:
            same = bytes(content) == kinds_of_records(size)[number % 97].tobytes()
            right, wrong = right + same, wrong + (not same)
    store.append([view(10**6)], kinds_of_records(size)[:1], 0)
    assert store.read([view(10**6)]) != [None], "what was written is not there"
    return right, wrong


def opened(name: str, folder: Path, size: int) -> tuple[float, float]:
    """Seconds until a store is open and has given a record, and the MB that it takes."""
    before, start = _resident(), time.perf_counter()
    store = STORES[name](folder, size)
    assert store.read([view(77)]) != [None]
    return time.perf_counter() - start, _resident() - before


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _child(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        pipe.send(function(*arguments))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


CONTEXT = multiprocessing.get_context("fork")


def started(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """A process that does it, and where its answer comes from."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_child, args=(theirs, function, arguments))
    child.start()
    theirs.close()
    return child, ours


def answer(child: Any, pipe: Any) -> Any:
    """What it returned, or the error or signal that it ended with."""
    try:
        result = pipe.recv()
    except EOFError:
        result = ""
    child.join()
    return result if not child.exitcode else f"signal {-child.exitcode}"


def at_once(function: Callable[..., Any], *each: tuple[Any, ...]) -> tuple[float, float]:
    """Rates of several processes together: their sum, and their mean per second of processor time."""
    barrier = CONTEXT.Barrier(len(each))
    rates = [answer(*child) for child in [started(function, *arguments, barrier) for arguments in each]]
    return sum(wall for wall, _ in rates), sum(cpu for _, cpu in rates) / len(rates)


def throughput(name: str, folder: Path, size: int, count: int) -> dict[str, Any]:
    """Rates, and size on disk."""
    shutil.rmtree(folder, ignore_errors=True)
    half = count // 2
    figures: dict[str, Any] = {"write": at_once(write, (name, folder, size, 0, count))}
    held = sum(file.stat().st_blocks * 512 for file in folder.rglob("*"))
    figures |= {"disk": held / (count * BATCH * size), "read": at_once(read, (name, folder, size, 1, count))}
    figures["read by two"] = at_once(read, *((name, folder, size, seed, count) for seed in (2, 3)))
    shutil.rmtree(folder)
    figures["write by two"] = at_once(write, *((name, folder, size, first, half) for first in (0, half)))
    shutil.rmtree(folder)
    return figures


def opening(name: str, folder: Path) -> tuple[float, float]:
    """Median seconds and MB."""
    shutil.rmtree(folder, ignore_errors=True)
    at_once(write, (name, folder, 1500, 0, 100_000 // BATCH + 1))
    figures = [answer(*started(opened, name, folder, 1500)) for _ in range(5)]
    shutil.rmtree(folder)
    return median(seconds for seconds, _ in figures), median(memory for _, memory in figures)


def kills(name: str, folder: Path, tries: int) -> Counter[str]:
    """What became of a writer's records after each kill."""
    random, outcomes = np.random.default_rng(0), Counter[str]()
    for _ in range(tries):
        shutil.rmtree(folder, ignore_errors=True)
        barrier = CONTEXT.Barrier(2)
        child, _pipe = started(write, name, folder, SIZES["150 kB"], 0, 200, barrier)
        barrier.wait()
        time.sleep(random.uniform(0.05, 0.8))
        child.kill()
        child.join()
        outcomes[_outcome(name, folder, 200)] += 1
    shutil.rmtree(folder)
    return outcomes


def damages(name: str, folder: Path, tries: int) -> Counter[str]:
    """What became of four batches after each damage."""
    random, outcomes, whole = np.random.default_rng(1), Counter[str](), folder.with_suffix(".whole")
    shutil.rmtree(folder, ignore_errors=True)
    at_once(write, (name, folder, SIZES["150 kB"], 0, 4))
    shutil.copytree(folder, whole)
    for number in range(tries):
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)
        files = sorted(
            f for f in folder.rglob("*") if f.is_file() and f.stat().st_size and "lock" not in f.name
        )
        _damage(files[random.integers(len(files))], number, random)
        outcomes[_outcome(name, folder, 4)] += 1
    shutil.rmtree(folder)
    shutil.rmtree(whole)
    return outcomes


def _damage(path: Path, number: int, random: np.random.Generator) -> None:
    """One of three kinds; every other time among the first bytes, where a store has what is no record."""
    size = path.stat().st_size
    place = int(random.integers(size if number % 2 else min(size, 65536)))
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        if number % 3 == 2:
            file.truncate(place)
        else:
            file.write(bytes([byte ^ 1]) if number % 3 else random.bytes(min(4096, size - place)))


def _outcome(name: str, folder: Path, count: int) -> str:
    result = answer(*started(check, name, folder, SIZES["150 kB"], count))
    if isinstance(result, str):
        return result
    return "wrong records" if result[1] else "right"


def _main() -> None:
    arguments = _arguments()
    folder = arguments.folder / "stores"
    print("| store | record | write | two write | read | two read | disk |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, size in SIZES.items():
        count = max(2, int(arguments.megabytes * 1e6 / (size * BATCH)) // 2 * 2)
        rounds = [
            [throughput(n, folder, size, count) for n in arguments.stores] for _ in range(arguments.repeats)
        ]
        for number, name in enumerate(arguments.stores):
            print(f"| {name} | {label} | {_cells([figures[number] for figures in rounds])} |", flush=True)
    print("\n| store | open, s | memory, MB | killed | damaged |\n| --- | --- | --- | --- | --- |")
    for name in arguments.stores:
        seconds, memory = opening(name, folder)
        fates = [_fates(test(name, folder, arguments.tries)) for test in (kills, damages)]
        print(f"| {name} | {seconds:.3f} | {memory:.0f} | {' | '.join(fates)} |", flush=True)


def _cells(rounds: list[dict[str, Any]]) -> str:
    rates = [
        "{:.0f} ({:.0f})".format(*(median(figures[what][kind] for figures in rounds) for kind in (0, 1)))
        for what in ("write", "write by two", "read", "read by two")
    ]
    return " | ".join([*rates, f"{rounds[0]['disk']:.3f}"])


def _fates(outcomes: Counter[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/cache"), help="where to write")
    parser.add_argument("--stores", nargs="+", default=[*STORES][:3], choices=STORES)
    parser.add_argument("--megabytes", type=int, default=1000, help="written at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tries", type=int, default=20, help="kills, and damages")
    return parser.parse_args()


if __name__ == "__main__":
    _main()
