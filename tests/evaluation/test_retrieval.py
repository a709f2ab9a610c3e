import math
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from leapcore.errors import DataError
from leapcore.evaluation.retrieval import (
    PROTOCOLS,
    GroundTruth,
    Query,
    _pixels,
    average_precision,
    cosine_ranks,
    evaluate_retrieval,
    query_scores,
    read_ground_truth,
    retrieval_scores,
)

BOX = (0.0, 0.0, 1.0, 1.0)
CPU = torch.device("cpu")


def _truth(answers):
    sets = [[each.get(kind, []) for kind in ("easy", "hard", "junk")] for each in answers]
    return GroundTruth([], [Query(str(index), BOX, *kinds) for index, kinds in enumerate(sets)])


def _assert_scores(scores, expected):
    for protocol in PROTOCOLS:
        initial = protocol[0].upper()
        assert scores[f"{protocol}_map"] == pytest.approx(expected[f"mAP_{initial}"], abs=1e-9)
        for k, share in zip(expected["ks"], expected[f"mP_at_k_{initial}"], strict=True):
            assert scores[f"{protocol}_mp{k}"] == pytest.approx(share, abs=1e-9)


def test_average_precision_equals_the_reference(golden):
    for case in golden("retrieval")["compute_ap"]:
        found = average_precision(np.array(case["ranks"]), case["nres"])
        assert found == pytest.approx(case["ap"], abs=1e-9)


def test_protocols_equal_the_reference(golden):
    for case in golden("retrieval")["protocols"]:
        ranks, truth = np.array(case["ranks"]), _truth(case["gnd"])
        _assert_scores(retrieval_scores(ranks, truth), case["result"])
        for protocol in PROTOCOLS:
            expected = case["per_query"][protocol[0].upper()]
            table = query_scores(ranks, truth, protocol)
            aps, shares = np.array(expected["aps"], float), np.array(expected["prs"], float)
            np.testing.assert_allclose(table, np.column_stack([aps, shares]), rtol=0, atol=1e-9)


def test_scores_from_features_equal_the_reference(golden):
    (case,) = golden("retrieval")["from_features"]
    random = np.random.RandomState(100)
    database, queries = (torch.from_numpy(random.randn(n, 8).astype(np.float32)) for n in (40, 4))
    ranks = cosine_ranks(database, queries)
    assert ranks.tolist() == case["ranks"]
    _assert_scores(retrieval_scores(ranks, _truth(case["gnd"])), case["result"])


def test_edge_cases_equal_the_reference_where_it_has_an_answer(golden):
    compared = 0
    for case in golden("retrieval")["compute_map_edge"]:
        (answers,) = case["gnd"]
        truth = _truth([{"easy": answers["ok"], "junk": answers.get("junk", [])}])
        if "raises" not in case["result"]:
            row = query_scores(np.array(case["ranks"]), truth, "easy")[0]
            assert row[0] == pytest.approx(case["result"]["map"], abs=1e-9)
            assert row[1 : 1 + len(case["ks"])] == pytest.approx(case["result"]["mpr"], abs=1e-9)
            compared += 1
    assert compared == 3


def test_no_query_with_positives_scores_nan():
    scores = retrieval_scores(np.arange(5)[:, None], _truth([{"hard": [1]}]))
    assert math.isnan(scores["easy_map"])
    assert math.isnan(scores["easy_mp10"])
    assert scores["hard_map"] == 0.25


def test_positives_outside_the_ranking_are_missed():
    ranks = np.arange(5)[:, None]
    assert retrieval_scores(ranks, _truth([{"easy": [99]}]))["easy_map"] == 0
    assert retrieval_scores(ranks, _truth([{"easy": [99]}]))["easy_mp10"] == 0
    assert retrieval_scores(ranks, _truth([{"easy": [0, 99]}]))["easy_map"] == 0.5


def test_query_boxes_are_cut_as_by_the_reference(golden):
    for case in golden("retrieval")["crop"]:
        query, size = Query("a", tuple(case["bbx"]), [], [], []), tuple(case["image_size_wh"])
        if case["full_frame"]:  # the reference takes the whole image for an empty box: here an error
            with pytest.raises(DataError, match="query a"):
                _pixels(query, size)
        else:
            left, top, right, bottom = _pixels(query, size)
            assert [right - left, bottom - top] == case["cropped_size_wh"]


@pytest.fixture
def dataset(tmp_path):
    """Six images of blocks; in each query image, one of them lies small on a large copy of the next one."""
    folder = tmp_path / "rtiny"
    (folder / "jpg").mkdir(parents=True)
    random = np.random.RandomState(0)
    blocks = [Image.fromarray(random.randint(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in range(6)]
    for index in range(6):
        place = blocks[index].resize((56, 56), 0)
        place.save(folder / "jpg" / f"place_{index}.jpg", quality=95)
        query = blocks[(index + 1) % 6].resize((180, 140), 0)
        query.paste(place, (20, 10))
        query.save(folder / "jpg" / f"query_{index}.jpg", quality=95)
    _write(folder, _content())
    return folder


def _content():
    answers = {"bbx": [20.0, 10.0, 76.0, 66.0], "hard": np.array([], int)}
    return {
        "imlist": [f"place_{index}" for index in range(6)],
        "qimlist": ["query_2", "query_4"],
        "gnd": [
            {**answers, "easy": np.array([2]), "junk": [0]},
            {**answers, "easy": [np.int64(4)], "junk": np.array([1, 3], ">i4")},
        ],
    }


def _write(folder, content, protocol=2):
    (folder / f"gnd_{folder.name}.pkl").write_bytes(pickle.dumps(content, protocol))


def _view(size):
    def view(image):
        return torch.from_numpy(np.array(image.convert("RGB").resize((size, size), 3))).permute(2, 0, 1)

    return view


def test_each_query_finds_its_own_image_first(dataset, vit):
    scores = evaluate_retrieval(vit(), dataset, view=_view(28), device=CPU, batch_size=4)
    assert scores["easy_map"] == scores["easy_mp1"] == scores["medium_map"] == 1
    assert math.isnan(scores["hard_map"])


@pytest.mark.parametrize("protocol", range(6))
def test_ground_truth_is_read_from_every_pickle_protocol(dataset, protocol):
    _write(dataset, _content(), protocol)
    truth = read_ground_truth(dataset)
    assert truth.images == [f"place_{index}" for index in range(6)]
    assert truth.queries[0] == Query("query_2", (20.0, 10.0, 76.0, 66.0), [2], [], [0])
    assert truth.queries[1] == Query("query_4", (20.0, 10.0, 76.0, 66.0), [4], [], [1, 3])


def test_ground_truth_of_python_2_is_read(dataset):
    # What Python 2 and numpy 1.x write for np.array([2, 200]): old module name, raw bytes as a string.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\ntcnumpy\ndtype\n"
        b"(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xc8\\x00\\x00\\x00\\x00\\x00\\x00\\x00'\ntb"
    )
    names = [f"place_{index % 6}" for index in range(201)]
    start = pickle.dumps({"imlist": names, "qimlist": ["query_2"]}, 0)[:-1]
    answers = b"(dS'bbx'\n(F0.0\nF0.0\nF9.5\nF9.5\ntsS'hard'\n(lsS'junk'\n(lsS'easy'\n" + array + b"s"
    (dataset / "gnd_rtiny.pkl").write_bytes(start + b"S'gnd'\n(" + answers + b"ls.")
    assert read_ground_truth(dataset).queries[0].easy == [2, 200]


def test_the_only_ground_truth_is_taken_whatever_its_name(dataset):
    (dataset / "gnd_rtiny.pkl").rename(dataset / "gnd_other.pkl")
    assert len(read_ground_truth(dataset).queries) == 2
    (dataset / "gnd_third.pkl").touch()
    with pytest.raises(DataError, match=r"gnd_rtiny\.pkl.*No such file"):
        read_ground_truth(dataset)


class _Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(dataset, tmp_path, protocol):
    trace = tmp_path / "it-ran"
    calls = {
        "mkdir": _Call(os.mkdir, str(trace)),
        "eval": _Call(eval, f"__import__('os').mkdir({str(trace)!r})"),
    }
    for name, call in calls.items():
        _write(dataset, {**_content(), "extra": call}, protocol)
        with pytest.raises(DataError, match=rf"asks for \w+\.{name}, which"):
            read_ground_truth(dataset)
    assert not trace.exists()


def test_an_object_array_is_refused(dataset):
    _write(dataset, {**_content(), "extra": np.array([{}, None], object)})
    with pytest.raises(DataError, match="cannot be used"):
        read_ground_truth(dataset)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps(_content())[:-30]])
def test_a_broken_ground_truth(dataset, content):
    (dataset / "gnd_rtiny.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"gnd_rtiny\.pkl cannot be used") as caught:
        read_ground_truth(dataset)
    assert caught.value.remedy


@pytest.mark.parametrize("key", ["imlist", "qimlist", "gnd"])
def test_a_missing_key_is_named(dataset, key):
    content = _content()
    del content[key]
    _write(dataset, content)
    with pytest.raises(DataError, match=f"the key '{key}' is missing"):
        read_ground_truth(dataset)


@pytest.mark.parametrize("key", ["bbx", "easy", "hard", "junk"])
def test_a_missing_key_of_a_query_is_named(dataset, key):
    content = _content()
    del content["gnd"][1][key]
    _write(dataset, content)
    with pytest.raises(DataError, match=f"the key '{key}' is missing"):
        read_ground_truth(dataset)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bbx", [1, 2, 3], "query_4 is not four numbers"),
        ("bbx", [1, 2, 3, math.nan], "query_4 is not four numbers"),
        ("bbx", [180, 10, 220, 60], "query_4.* is outside its image of 180 x 140 pixels"),
        ("easy", [6], "query_4 has an index outside the 6 database images"),
        ("junk", [-1], "query_4 has an index outside the 6 database images"),
        ("hard", "two", "cannot be used"),
    ],
)
def test_a_wrong_value_of_a_query(dataset, key, value, message):
    content = _content()
    content["gnd"][1][key] = value
    _write(dataset, content)
    with pytest.raises(DataError, match=message):
        read_ground_truth(dataset)


def test_queries_without_answers(dataset):
    content = _content()
    del content["gnd"][1]
    _write(dataset, content)
    with pytest.raises(DataError, match="cannot be used"):
        read_ground_truth(dataset)


@pytest.mark.parametrize("name", ["place_5", "query_4"])
def test_a_missing_image_is_named(dataset, name):
    (dataset / "jpg" / f"{name}.jpg").unlink()
    with pytest.raises(DataError, match=rf"{name}\.jpg"):
        read_ground_truth(dataset)


@pytest.mark.parametrize("name", ["place_5", "query_4"])
def test_an_image_that_cannot_be_decoded_is_named(dataset, vit, name):
    (dataset / "jpg" / f"{name}.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{name}\.jpg cannot be decoded"):
        evaluate_retrieval(vit(), dataset, view=_view(28), device=CPU)
