"""The comparison with other libraries, as far as it runs without them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

PEERS = str(Path(__file__).parents[1] / "benchmarks" / "peers")


@pytest.fixture
def peers(monkeypatch):
    """Lets the comparison's programs be imported as they import each other."""
    monkeypatch.syspath_prepend(PEERS)
    yield
    for name in ("compare", "prepare", "run_leapcore", "stopwatch", "table"):
        sys.modules.pop(name, None)


def test_the_comparison_with_peers_times_leapcore_by_target_layer(peers, tmp_path, monkeypatch, capsys):
    from prepare import VALIDATION, prepare
    from run_leapcore import main

    prepare((Image.new("L", (28, 28), shade) for shade in range(VALIDATION + 8)), tmp_path)
    held = "curriculum={scheduler: cka, start: 2, threshold: 2, max_time_per_layer: 2st}"
    arguments = f"--data {tmp_path} --steps 3 --set train.batch_size=4".split()
    monkeypatch.setattr(sys, "argv", ["run_leapcore.py", *arguments, "--set", held])
    main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["name"] == "leapcore"
    assert told["targets"] == [2, 3]  # the first lap only starts the clocks
    assert all(seconds > 0 for seconds in told["seconds"] + told["cpu_seconds"])


def test_the_peers_read_the_weights_as_dinov2_names_them(peers, tmp_path):
    from prepare import VALIDATION, prepare

    prepare((Image.new("L", (28, 28)) for _ in range(VALIDATION + 1)), tmp_path)
    weights = torch.load(tmp_path / "teacher.pth", weights_only=True)
    assert weights["register_tokens"].shape == (1, 4, 192)
    assert weights["pos_embed"].shape == (1, 1 + 64, 192)
    assert {"mask_token", "cls_token", "blocks.11.ls2.gamma", "norm.weight"} <= weights.keys()


def _run(number, name, goal, targets, seconds):
    clocks = {"seconds": [9.0, 9.0, *seconds], "cpu_seconds": [8.0, 8.0, *seconds]}  # the first two warm up
    return {"round": number, "name": name, "goal": goal, "targets": [1, 1, *targets], **clocks}


def test_the_table_pairs_the_neighbours_of_a_round_and_takes_medians_per_target(peers):
    from table import table

    ours = ("leapcore", "both layers", [1, 1, 1, 2], [0.5, 0.4, 0.6, 1.5])
    runs = [
        _run(0, "peer", "layer 2", [2, 2, 2], [2.0, 2.0, 7.0]),
        _run(0, *ours),
        _run(1, *ours),  # the order alternates; the round before ends here
        _run(1, "peer", "layer 2", [2], [4.0]),
        _run(1, "other", "layer 2", [2], [9.0]),  # no neighbour of ours
    ]
    ratio = "3.00 (2.00 to 4.00)"
    rows = table(map(json.dumps, runs)).splitlines()
    assert rows[2:] == [f"| peer | layer 2 | both layers | 3.000 | 1.000 | {ratio} | {ratio} |"]


def test_the_chain_holds_every_comparison_once(peers):
    from compare import CHAIN
    from table import table

    names = {"run_leapcore.py": "leapcore", "run_lightly.py": "lightly", "run_reference.py": "reference"}
    runs = [_run(0, names[run.script], run.goal, [1], [1.0]) for run in CHAIN]
    rows = [row.split(" | ")[:3] for row in table(map(json.dumps, runs)).splitlines()[2:]]
    compared = {(peer.strip("| "), its, ours) for peer, its, ours in rows}
    last, layers = "last layer, no CKA", [f"layer {number}" for number in (12, 6, 1)]
    assert compared == {
        *(("lightly", last, ours) for ours in (last, "layer 6", "layer 1", "every layer equally long")),
        *(("reference", layer, layer) for layer in layers),
    }
