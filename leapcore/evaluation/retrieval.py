"""Instance retrieval on revisited Oxford and Paris (Radenovic et al. 2018): mAP and mP@k.

Shape letters: D database images, Q queries, K cut-offs.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from leapcore.core.provider import LayerFeatureProvider
from leapcore.errors import DataError
from leapcore.evaluation.extract import extract_features
from leapcore.spec.paths import ground_truth_path

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
View = Callable[[Image.Image], Tensor]

CUTOFFS = (1, 5, 10)
# Protocol -> kinds of images that count as hits, kinds that are taken out of the ranking beforehand.
PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


class Query(NamedTuple):
    """An image name without ``.jpg``, a box (left, top, right, bottom) in it, database indices by kind."""

    name: str
    bbx: tuple[float, ...]
    easy: list[int]
    hard: list[int]
    junk: list[int]


class GroundTruth(NamedTuple):
    """Names of the D database images, without ``.jpg``, and the Q queries."""

    images: list[str]
    queries: list[Query]


def evaluate_retrieval(
    provider: LayerFeatureProvider, folder: Path, *, view: View, device: torch.device, batch_size: int = 32
) -> dict[str, float]:
    """The :func:`retrieval_scores` of a backbone's pooled features, ranked by cosine similarity.

    Args:
        provider: The backbone, on ``device``.
        folder: Holds ``gnd_<folder's name>.pkl`` and ``jpg/<image name>.jpg``.
        view: PIL image -> bytes (3, H, W), the same for database images and cropped queries.
        device: Where to compute.
        batch_size: Images per forward pass.

    Raises:
        DataError: As :func:`read_ground_truth`, or an image cannot be decoded.
    """
    truth = read_ground_truth(folder)
    database, queries = (
        extract_features(provider, _batches(folder, images, view, batch_size), device).vectors
        for images in (truth.images, truth.queries)
    )
    return retrieval_scores(cosine_ranks(database, queries), truth)


def cosine_ranks(database: Tensor, queries: Tensor) -> Ints:
    """Database indices (D, Q), the most similar first, from vectors (D, C) and (Q, C)."""
    similarity = F.normalize(database, dim=1) @ F.normalize(queries, dim=1).T
    return np.asarray(similarity.argsort(dim=0, descending=True, stable=True).cpu())


def retrieval_scores(ranks: Ints, truth: GroundTruth) -> dict[str, float]:
    """``easy_map``, ``easy_mp1``, ``easy_mp5``, ``easy_mp10``, then medium and hard, as fractions.

    ``ranks`` (D, Q) holds database indices per query, best first. Means are over the queries that have
    positives in the protocol; NaN if none has.
    """
    scores: dict[str, float] = {}
    for protocol in PROTOCOLS:
        table = query_scores(ranks, truth, protocol)
        answerable = table[~np.isnan(table[:, 0])]
        means = answerable.mean(0) if len(answerable) else np.full(table.shape[1], np.nan)
        names = ["map", *(f"mp{cutoff}" for cutoff in CUTOFFS)]
        scores |= {f"{protocol}_{name}": float(mean) for name, mean in zip(names, means, strict=True)}
    return scores


def query_scores(ranks: Ints, truth: GroundTruth, protocol: str) -> Floats:
    """Average precision, then precision at each k, per query (Q, 1 + K); NaN for one without positives."""
    table = np.full((len(truth.queries), 1 + len(CUTOFFS)), np.nan)
    for row, ranking, query in zip(table, ranks.T, truth.queries, strict=True):
        positives, junk = ([i for k in kinds for i in getattr(query, k)] for kinds in PROTOCOLS[protocol])
        if positives:
            kept = ranking[~np.isin(ranking, junk)]
            places = np.flatnonzero(np.isin(kept, positives))
            row[:] = average_precision(places, len(positives)), *precision_at(places, CUTOFFS)
    return table


def average_precision(places: Ints, positives: int) -> float:
    """Area under the precision-recall curve by the trapezoid rule.

    ``places`` (F,) in the ranking, ascending from 0, hold positives; any further positives count as missed.
    """
    hits = np.arange(len(places))  # before each place; precision is taken just before and just after it
    before = np.where(places == 0, 1.0, hits / np.maximum(places, 1))
    after = (hits + 1) / (places + 1)
    return float((before + after).sum() / (2 * positives))


def precision_at(places: Ints, cutoffs: Sequence[int]) -> Floats:
    """Share of positives (K,) among the first k; as officially, k reaches no further than the last hit."""
    depth = np.minimum(cutoffs, places[-1] + 1 if len(places) else 1)  # else 2 positives miss 1 at k = 10
    return np.asarray(np.searchsorted(places, depth) / depth)


def _batches(folder: Path, images: Sequence[str | Query], view: View, size: int) -> Iterator[Any]:
    for start in range(0, len(images), size):
        pixels = torch.stack([_view_of(folder, entry, view) for entry in images[start : start + size]])
        yield pixels, torch.zeros(len(pixels))  # labels are not used here


def _view_of(folder: Path, entry: str | Query, view: View) -> Tensor:
    """The bytes (3, H, W) of a database image, or of a query's box in its image."""
    with _opened(folder, entry if isinstance(entry, str) else entry.name) as image:
        return view(image if isinstance(entry, str) else image.crop(_pixels(entry, image.size)))


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[Image.Image]:
    path = folder / "jpg" / f"{name}.jpg"
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded: {error}", "Unpack this image again.") from error


def _pixels(query: Query, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a query's box that lies in its image of this (width, height), in whole pixels."""
    left, top, right, bottom = (round(side) for side in query.bbx)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if left >= right or top >= bottom:
        cause = f"query {query.name}: box {query.bbx} is outside its image of {size[0]} x {size[1]} pixels"
        raise DataError(cause, "Ground truth and images must be of one data set, neither resized.")
    return left, top, right, bottom


def read_ground_truth(folder: Path) -> GroundTruth:
    """Read the ground truth of a data set in the official layout, and check the images against it.

    Raises:
        DataError: The file is missing, malformed or would run code; an image is missing or a box outside it.
    """
    truth = _parsed(ground_truth_path(folder))
    _check_images(truth, folder)
    return truth


def _parsed(path: Path) -> GroundTruth:
    try:
        with path.open("rb") as file:  # the official ones come from Python 2
            content = _NumbersUnpickler(file, encoding="latin1").load()
        images = [_text(name) for name in content["imlist"]]
        pairs = zip(content["qimlist"], content["gnd"], strict=True)
        return GroundTruth(images, [_query(_text(name), answers, len(images)) for name, answers in pairs])
    except Exception as error:  # a broken pickle may raise nearly anything
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else error
        cause = f"{path} cannot be used as ground truth: {reason}"
        raise DataError(cause, "Fetch it from where the data set is published.") from error


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"an image's name is {name!r}")
    return name


def _query(name: str, answers: Any, images: int) -> Query:
    bbx = tuple(float(side) for side in answers["bbx"])
    easy, hard, junk = ([int(index) for index in answers[kind]] for kind in ("easy", "hard", "junk"))
    if len(bbx) != 4 or not np.isfinite(bbx).all():
        raise ValueError(f"the box {bbx} of query {name} is not four numbers")
    if any(not 0 <= index < images for index in (*easy, *hard, *junk)):
        raise ValueError(f"query {name} has an index outside the {images} database images")
    return Query(name, bbx, easy, hard, junk)


def _check_images(truth: GroundTruth, folder: Path) -> None:
    present = {path.stem for path in (folder / "jpg").glob("*.jpg")}
    missing = [name for name in (*truth.images, *(q.name for q in truth.queries)) if name not in present]
    if missing:
        cause = f"{folder / 'jpg'} lacks {len(missing)} images of the ground truth, {missing[0]}.jpg first"
        raise DataError(cause, "Unpack all images into that folder, without subfolders.")
    for query in truth.queries:
        with _opened(folder, query.name) as image:
            _pixels(query, image.size)


class _Dtype:
    """Stands in for numpy.dtype, of numbers: others have no plain bytes to read."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def read(self, data: Any) -> list[Any]:
        return list(np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, self.dtype))


class _Array(list[Any]):
    """Stands in for numpy.ndarray: its numbers in a row."""

    def __setstate__(self, state: Any) -> None:
        self[:] = state[2].read(state[4])


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: dtype.read(data)[0],
    ("numpy.core.numeric", "_frombuffer"): lambda data, dtype, *_: dtype.read(data),  # pickle protocol 5
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes in pickle protocols 0 to 2,
    ("__builtin__", "bytes"): lambda: b"",  # and none
}


class _NumbersUnpickler(pickle.Unpickler):
    """Reads containers, strings and numbers; nothing that a pickle names is imported or called.

    Numpy's own types have stand-ins too, since they trust the flags and bytes they are restored from.
    """

    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if stand_in is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no ground truth needs")
        return stand_in
