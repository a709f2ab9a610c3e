"""What a plan says before a run is what the run then books, writes and takes."""

from pathlib import Path

import pytest
from shared import PAPER_SAVINGS

from leapcore import load_spec, run
from leapcore.plan.advice import advice
from leapcore.plan.costs import Costs
from leapcore.plan.parts import planned
from leapcore.plan.probe import Measured, Probe
from leapcore.plan.scenarios import scenarios
from leapcore.plan.sizes import trained
from leapcore.runs.forecast import Stay


@pytest.fixture(scope="module")
def quickstart():
    return Costs(planned(load_spec("quickstart")))


def _costs(spec_file, *overrides):
    return Costs(planned(load_spec(spec_file, overrides, files=False)))


def test_the_flops_are_those_that_the_run_books_and_the_files_as_large(spec_file, tmp_path):
    wanted = ["train.duration=4st", "curriculum={scheduler: cka, threshold: 2, max_time_per_layer: 1st}"]
    report = run(load_spec(spec_file, wanted), output=tmp_path / "run")
    costs = _costs(spec_file, *wanted)
    start = report.curriculum[0].target - 1
    ledger = costs.ledger_of(costs.by_the_clock(start))
    assert ledger.flops_by_part() == report.flops["spent_by_part"]
    assert ledger.baseline == report.flops["baseline"]
    sizes, (kept,) = trained(costs.parts), (tmp_path / "run/checkpoints").glob("step-*")
    tensors = sum(path.stat().st_size for path in kept.glob("*.safetensors"))
    assert tensors == pytest.approx(sizes.checkpoint, rel=0.05)
    student = (tmp_path / "run/student/model.safetensors").stat().st_size
    assert student == pytest.approx(sizes.exported, rel=0.05)


def test_what_a_cache_spares_is_counted_too(spec_file, tmp_path):
    wanted = [
        "train={duration: 2ep, batch_size: 479}",  # 3 batches make an epoch, none is left over
        "data.augment={views: 1}",
        "objective.mixup=false",
        f"cache.folder={tmp_path / 'cache'}",
        "curriculum={scheduler: fixed, layer: 2}",
    ]
    report = run(load_spec(spec_file, wanted), output=tmp_path / "run")
    (course,) = scenarios(_costs(spec_file, *wanted))
    assert course.spent == report.flops["spent"]


def test_the_papers_recipe_without_its_files(leapcore_):
    code, out, err = leapcore_("plan", "leap-vits14-imagenet100")
    assert (code, err) == (0, "")
    for start, row in PAPER_SAVINGS.items():
        (line,) = (
            line for line in out.splitlines() if f" from layer {start} " in line and line.count("│") > 7
        )
        assert [float(cell) for cell in line.split("│")[2:-1]] == pytest.approx(row, abs=0.11)
    assert "How many training images there are (data.train: folder" in out
    assert "--set data.train_images=N" in out
    assert not list(Path().glob("[!s]*"))  # spec.yaml is the fixture's


def test_a_probe_and_a_page(leapcore_):
    code, out, err = leapcore_(
        "plan", "spec.yaml", "--probe", "--output", "plan.html", "--set", "train.batch_size=16"
    )
    assert (code, err) == (0, "")
    assert "images per second" in out
    assert "from layer 6" in out
    assert sorted(path.name for path in Path().iterdir()) == ["plan.html", "spec.yaml"]
    text = Path("plan.html").read_text()
    assert text.count("<svg") > 2
    assert "--shade: " in text


def test_a_stopped_probe_gives_no_plan(leapcore_, monkeypatch):
    def stopped(loop):
        loop.stopped = 2

    monkeypatch.setattr("leapcore.train.loop.Loop.fit", stopped)
    code, out, err = leapcore_("plan", "spec.yaml", "--probe", "--output", "plan.html")
    assert code == 130
    assert "stopped while steps were measured; nothing was written" in err
    assert "FLOPs" not in out
    assert not Path("plan.html").exists()


def test_the_expected_time_is_a_line_over_flops(quickstart):
    places = [{"teacher": layer} for layer in (0, 5, 11)]
    took = [Measured(place, 0.1 + 1e-9 * quickstart.step(place), 0.0, None) for place in places]
    walk = {"teacher": [Stay(3, 100, 0), Stay(11, 50, 0)]}
    expected = 100 * (0.1 + 1e-9 * quickstart.step({"teacher": 3})) + 50 * took[-1].seconds
    assert Probe("cpu", took).seconds(quickstart, walk) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["train.batch_size=1000", "optimizer.warmup=5ep", "evaluate.knn=9ep", "data.workers=1000"],
            {
                "leaves out 437 of 1,437": "batch_size to 718",
                "climbs for 5ep": "Shorten optimizer.warmup",
                "knn: 9ep is never due": "evaluate.knn: end",
                "1000 processes are to load images": "Set data.workers",
            },
        ),
        (
            [
                "train={batch_size: 2000, duration: 4ep}",
                "curriculum={max_time_per_layer: 1ep, start: first, sample_images: 2}",
            ],
            {
                "a batch of 2000 is larger than the data, 1,437": "batch_size to 1437",
                "has come to layer 4 of 12": "Lengthen train.duration, start deeper",
                "measured on 32 tokens of width 72": "unbiased: true",
                "nothing is evaluated": "Set evaluate.knn: end",
            },
        ),
        (
            [
                "curriculum={max_time_per_layer: null, unbiased: true}",
                "objective.target=layer+last",
                "teacher={backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8}}",
            ],
            {
                "the teacher has random weights": "Name a file",
                "no limit of time": "max_time_per_layer",
                "last layer in every step": "objective.target: layer",
            },
        ),
    ],
)
def test_warnings_have_evidence_and_a_remedy(spec_file, overrides, expected):
    found = advice(_costs(spec_file, *overrides))
    for cause, remedy in expected.items():
        assert any(cause in one.cause and remedy in one.remedy for one in found), (cause, found)


def test_a_sound_run_is_not_warned_of(quickstart):
    assert advice(quickstart) == []
