"""A cache's files: what is found is what was computed, whatever befalls the disk."""

import errno
import io
import json
import os
import re
import signal
from itertools import count
from pathlib import Path

import pytest
import torch

from leapcore.cache.features import FeatureCache
from leapcore.cache.limit import DiskLimit
from leapcore.cache.records import Stamp
from leapcore.core.features import LayerFeatures
from leapcore.core.matching import TeacherFeatures
from leapcore.data.loading import Batch
from leapcore.errors import PluginError

DAMAGED = re.compile("is damaged; what .* is computed again")


class Teacher:
    """Computes features, and counts for how many images."""

    def __init__(self, dtype=torch.float32, prefix=True, embedding=False):
        self.dtype, self.prefix, self.embedding, self.seen = dtype, prefix, embedding, 0

    def __call__(self, pixels):
        self.seen += len(pixels)
        tokens = pixels.flatten(2).transpose(1, 2).exp().to(self.dtype)  # (B, 16, 3)
        layer = LayerFeatures(tokens, (4, 4), tokens[:, :2].sin() if self.prefix else None)
        return TeacherFeatures(
            [layer, layer.map(torch.cos)], layer.map(torch.tan) if self.embedding else None
        )


class Cached:
    """A cache in a folder, used with views that are numbers."""

    def __init__(self, root, teacher=None, *, size=10**8, key="a", owner="one", processes=1, limit=None):
        self.teacher = teacher or Teacher()
        self.cache = FeatureCache(owner, {"key": key}, limit or DiskLimit(root, size, processes), rank=0)
        self.steps = count()

    def __call__(self, *views, layers=(0, 1), stamp=None):
        bytes_ = torch.stack([torch.full((3, 4, 4), view, dtype=torch.uint8) for view in views])
        batch = Batch.with_digests([(pixels, 0, ()) for pixels in bytes_])
        stamp = stamp or Stamp(7, next(self.steps))
        pixels = batch.pixels.float() / 255
        return self.cache.features(list(layers), pixels, batch.digests, stamp, self.teacher), pixels

    def right(self, *views, computes, **options):
        """Asks for features, which must be right bit for bit."""
        before = self.teacher.seen
        found, pixels = self(*views, **options)
        assert self.teacher.seen - before == computes
        for ours, theirs in zip(
            tensors(found), tensors(type(self.teacher).__call__(self.teacher, pixels)), strict=True
        ):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        assert [part.grid for part in parts(found)] == [(4, 4)] * len(parts(found))


def parts(features):
    return [*features.layers, *([features.embedding] if features.embedding else [])]


def tensors(features):
    return [tensor for part in parts(features) for tensor in part.tensors]


def size(root):
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def keys(root):
    return {json.loads(file.read_text())["key"]: file for file in root.rglob("key.json")}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("prefix", "embedding"), [(True, False), (False, True)])
def test_what_is_found_is_what_was_computed_bit_for_bit(tmp_path, dtype, prefix, embedding):
    cached = Cached(tmp_path, Teacher(dtype, prefix, embedding))
    cached.right(1, 2, 3, computes=3)
    cached.right(3, 2, 1, computes=0)
    cached.right(3, 9, 1, 8, computes=2)
    again = Cached(tmp_path, Teacher(dtype, prefix, embedding))
    again.right(8, 1, 9, 2, computes=0)


def test_views_that_are_alike_are_computed_once(tmp_path):
    cached = Cached(tmp_path)
    cached.right(1, 1, 2, 1, computes=2)
    cached.right(2, 3, 3, computes=1)
    assert cached.cache.take_hits() == 1


def test_another_key_or_layer_or_pixel_is_a_miss(tmp_path):
    Cached(tmp_path).right(1, 2, computes=2)
    Cached(tmp_path, key="b").right(1, 2, computes=2)
    cached = Cached(tmp_path)
    cached.right(1, 2, layers=(0, 2), computes=2)
    cached.right(1, 3, computes=1)


def test_what_another_process_adds_is_seen_after_a_refresh(tmp_path):
    one, other = Cached(tmp_path), Cached(tmp_path)
    one.right(1, computes=1)
    other.right(2, computes=1)
    one.right(1, 2, computes=1)
    one.right(3, computes=1)
    other.cache.refresh()
    other.right(1, 2, 3, computes=0)


def test_what_a_run_lost_with_a_kill_counts_as_computed_once(tmp_path):
    Cached(tmp_path).right(1, 2, stamp=Stamp(7, 20), computes=2)
    for stamp, found in [(Stamp(7, 18), 0), (Stamp(7, 20), 0), (Stamp(7, 21), 2), (Stamp(8, 18), 2)]:
        cached = Cached(tmp_path)
        cached.right(1, 2, stamp=stamp, computes=0)
        assert cached.cache.take_hits() == found, stamp


def test_features_of_another_form_are_refused(tmp_path):
    Cached(tmp_path).right(1, computes=1)
    with pytest.raises(PluginError, match=r"do not have the form(.|\n)*Delete that folder"):
        Cached(tmp_path, Teacher(prefix=False))(2)


# Damage


@pytest.fixture
def two_batches(tmp_path):
    """A folder with two batches of two views, and their files."""
    cached = Cached(tmp_path)
    cached.right(1, 2, computes=2)
    cached.right(3, 4, computes=2)
    return tmp_path, sorted(tmp_path.rglob("*.batch"))


def cut(file, *, to=None, by=0):
    os.truncate(file, file.stat().st_size - by if to is None else to)


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "lost", "warned"),
    [
        (lambda file: cut(file, by=1), 1, True),
        (lambda file: cut(file, by=500), 2, True),
        (lambda file: cut(file, to=60), 2, True),
        (lambda file: cut(file, to=5), 2, True),
        (lambda file: cut(file, to=0), 2, True),
        (lambda file: flip(file, 3), 2, True),
        (lambda file: flip(file, 30), 2, True),
        (lambda file: flip(file, -1), 1, True),
        (lambda file: flip(file, -500), 1, True),
        (lambda file: file.unlink(), 2, False),
        (lambda file: file.with_name("key.json").write_text('{"layers": [0'), 0, False),
        (lambda file: file.with_name("key.json").unlink(), 0, False),
    ],
)
def test_what_is_damaged_is_computed_again_and_nothing_else(two_batches, caplog, harm, lost, warned):
    root, (first, _) = two_batches
    harm(first)
    cached = Cached(root)
    cached.right(4, 3, 2, 1, computes=lost)
    cached.right(4, 3, 2, 1, computes=0)
    Cached(root).right(4, 3, 2, 1, computes=0)
    assert bool(DAMAGED.search(caplog.text)) == warned


def test_no_byte_that_is_wrong_yields_a_wrong_record(two_batches):
    root, (first, _) = two_batches
    whole = first.read_bytes()
    for place in range(0, len(whole), 7):
        flip(first, place)
        found, pixels = Cached(root)(1, 2, 3)
        assert all(map(torch.equal, tensors(found), tensors(Teacher()(pixels))))
        for file in set(root.rglob("*.batch")) - {first, *two_batches[1]}:
            file.unlink()
        first.write_bytes(whole)


def dies_in(number, written):
    """A child whose ``number``-th file in a cache has so many bytes when it dies, and not yet its name."""
    plain, left = Path.replace, [number]

    def replace(partial, path):
        left[0] -= len(path.parent.name) == 32  # a key's digest
        if not left[0]:
            os.truncate(partial, min(written, partial.stat().st_size))
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(partial, path)

    Path.replace = replace


@pytest.mark.parametrize("written", [0, 1, 30, 400, 10**6])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_kill_in_a_write_leaves_whole_batches(tmp_path, number, written):
    child = os.fork()
    if not child:
        dies_in(number, written)
        cached = Cached(tmp_path)
        cached(1, 2)
        cached(3, 4)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    whole = max(0, number - 2)  # the key comes before the first batch
    cached = Cached(tmp_path)
    cached.right(1, 2, computes=0 if whole > 0 else 2)
    cached.right(3, 4, computes=2)
    Cached(tmp_path).right(1, 2, 3, 4, computes=0)


# Room


def test_the_folder_unused_longest_goes_and_nothing_that_is_not_the_caches(tmp_path, caplog):
    (tmp_path / "photos").mkdir()
    for mine in ("photos/a.jpg", "notes.txt", "f" * 31):
        (tmp_path / mine).write_text("mine" * 2000)
    before = size(tmp_path)
    for key, used in {"old": 200, "older": 100, "young": 300}.items():
        Cached(tmp_path, key=key).right(*range(9), computes=9)
        os.utime(keys(tmp_path)[key], (used, used))
    one = (size(tmp_path) - before) // 3
    cached = Cached(tmp_path, key="new", size=3 * one + 9000)
    cached.right(*range(9), computes=9)
    assert keys(tmp_path).keys() == {"old", "young", "new"}
    assert (tmp_path / "photos/a.jpg").exists()
    assert size(tmp_path) - before <= 3 * one + 9000
    assert "takes no more" not in caplog.text


@pytest.mark.parametrize("processes", [1, 4])
def test_at_the_limit_it_says_so_once_and_computes(tmp_path, caplog, processes):
    cached = Cached(tmp_path, size=30_000, processes=processes)
    for first in range(0, 100, 5):
        cached.right(*range(first, first + 5), computes=5)
        assert size(tmp_path) <= 30_000
    assert caplog.text.count("takes no more: it has reached cache.limit_gb: 3e-05; the run goes on") == 1
    cached.right(0, 1, 2, 3, 4, computes=0)
    cached.right(0, 99, computes=1)
    cached.right(*range(9), layers=(0, 2), computes=9)  # what the other layers hold may go now
    cached.right(*range(9), layers=(0, 2), computes=0)
    cached.right(0, 1, 2, computes=3)
    assert size(tmp_path) <= 30_000


def test_two_teachers_do_not_delete_each_others(tmp_path, caplog):
    limit = DiskLimit(tmp_path, 20_000, 1)
    one, two = (Cached(tmp_path, key=key, owner=key, limit=limit) for key in "ab")
    for first in range(0, 40, 4):
        one.right(*range(first, first + 4), computes=4)
        two.right(*range(first, first + 4), computes=4)
    one.right(0, 1, computes=0)
    two.right(0, 1, computes=0)
    assert caplog.text.count("takes no more") == 1


def test_a_live_run_survives_the_loss_of_its_folder(tmp_path, caplog):
    live = Cached(tmp_path, key="live")
    live.right(1, 2, computes=2)
    greedy = Cached(tmp_path, key="greedy", size=11_000)
    greedy.right(*range(3), computes=3)
    assert keys(tmp_path).keys() == {"greedy"}
    live.right(1, 2, computes=2)
    live.right(1, 3, computes=1)
    live.cache.refresh()
    live.right(1, 2, 3, computes=0)
    Cached(tmp_path, key="live").right(1, 3, computes=0)
    assert not caplog.text


def full(monkeypatch, code, after):
    """The disk takes some files, and half of the next."""
    plain, left = Path.open, [after]

    class Full(io.FileIO):
        def write(self, data):
            super().write(data[: len(data) // 2])
            raise OSError(code, os.strerror(code))

    def open_(path, mode="r", *options, **named):
        left[0] -= "x" in mode
        return Full(path, mode) if "x" in mode and left[0] < 0 else plain(path, mode, *options, **named)

    monkeypatch.setattr(Path, "open", open_)
    return left


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_disk_that_is_full_ends_nothing(tmp_path, monkeypatch, caplog, code, after):
    full(monkeypatch, code, after)
    cached = Cached(tmp_path)
    for view in range(6):
        cached.right(view, computes=1)
    monkeypatch.undo()
    assert caplog.text.count(f"takes no more: [Errno {code}] {os.strerror(code)}; the run goes on") == 1
    stored = max(0, after - 1)  # after the key
    assert len(list(tmp_path.rglob("*.batch"))) == stored
    assert not list(tmp_path.rglob("*.tmp"))
    cached.right(*range(6), computes=6 - stored)


def test_on_a_full_disk_what_is_unused_goes_first(tmp_path, monkeypatch, caplog):
    Cached(tmp_path, key="other").right(1, computes=1)
    left = full(monkeypatch, errno.ENOSPC, 0)
    plain = DiskLimit._drop_least_recent

    def drop(limit):
        left[0] = 99  # there is room again
        return plain(limit)

    monkeypatch.setattr(DiskLimit, "_drop_least_recent", drop)
    cached = Cached(tmp_path)
    cached.right(1, computes=1)
    cached.right(1, computes=0)
    assert len(list(tmp_path.rglob("key.json"))) == 1
    assert not caplog.text


def test_a_folder_that_cannot_be_used_ends_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    cached = Cached(tmp_path / "file")
    cached.right(1, computes=1)
    cached.right(1, computes=1)
    assert caplog.text.count("takes no more: [Errno") == 1
