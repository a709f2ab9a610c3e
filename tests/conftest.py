import json
import os
import signal
import sys
from pathlib import Path

import pytest

# One thread per test process: the sizes here are too small for more to pay.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"

SPEC = """\
name: mine
teacher: {backbone: vit, weights: "asset:digits-vit"}
student: {backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3}}
data: {source: digits, image_size: 32, crop: 1.0, workers: 0}
optimizer: {name: adamw, lr: 0.001, warmup: 1st}
train: {duration: 2st, batch_size: 64}
evaluate: {knn: never, linear: never}
"""


@pytest.fixture(scope="session")
def spec_file(tmp_path_factory):
    """The spec of a short run, in a file."""
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="session")
def small_run(spec_file, tmp_path_factory):
    """A finished run of four steps with two checkpoints and its kNN accuracy; to be read only."""
    from leapcore import load_spec, run

    more = ["train={duration: 4st, batch_size: 64, log_every: 2}", "checkpoint.every=2st"]
    more.append("evaluate={knn: 2st, linear: never}")
    return run(load_spec(spec_file, more), output=tmp_path_factory.mktemp("small") / "run").folder


@pytest.fixture(scope="session")
def golden():
    """Numbers that the method's reference code produced, by file name."""
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def no_pages(request, monkeypatch):
    """Runs draw no page, which would take a third of the tests' time; those in tests/report do."""
    if request.path.parent.name != "report":
        monkeypatch.setattr("leapcore.listeners.pages.ReportPage.leapcore_run_finished", lambda self: None)


@pytest.fixture(scope="session", autouse=True)
def counted_once():
    """Runs count a model that an earlier one had without doing it again (tests/counted_once.py)."""
    with pytest.MonkeyPatch.context() as patch:
        if "leapcore.train.build" in sys.modules:  # not for the core's tests, which need no engine
            import counted_once

            counted_once.remember(patch)
        yield


@pytest.fixture
def vit():
    """Builds a small ViT provider: 28 px, 4 x 4 tokens, random weights."""
    from leapcore.plugins.loader import installed_plugins

    def build(image_size=28, model="vit_tiny_patch16_224", **options):
        small = {"patch_size": 7, "embed_dim": 24, "depth": 4, "num_heads": 3}
        factory = installed_plugins().get("backbones", "vit")
        return factory(
            model=model, weights="none", image_size=image_size, options={**small, **options}
        ).eval()

    return build


@pytest.fixture
def leapcore_(tmp_path, monkeypatch, capsys):
    """Runs a command in a fresh folder: (exit code, standard output, standard error)."""
    from leapcore import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")  # or tables are as wide as whoever runs the tests
    (tmp_path / "spec.yaml").write_text(SPEC)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["leapcore", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code or 0, printed.out, printed.err

    before = signal.getsignal(signal.SIGTERM)  # a command's own is for a process that ends with it
    yield command
    signal.signal(signal.SIGTERM, before)


def write_shards(root, shards=1):
    """A webdataset of eight images, each of another red, to train and to validate."""
    import io
    import itertools
    import tarfile

    from PIL import Image

    root.mkdir(exist_ok=True)
    names = [f"{part:04d}.tar" for part in range(shards)]
    for split, (part, name) in itertools.product(("train", "validation"), enumerate(names)):
        with tarfile.open(root / f"toy-{split}-{name}", "w") as tar:
            for index in range(part, 8, shards):
                content = io.BytesIO()
                Image.new("RGB", (20, 20), (30 * index, 0, 0)).save(content, "JPEG")
                for suffix, payload in (("jpg", content.getvalue()), ("cls", str(index % 2).encode())):
                    member = tarfile.TarInfo(f"{index:04d}.{suffix}")
                    member.size = len(payload)
                    tar.addfile(member, io.BytesIO(payload))
    splits = {
        split: {
            "name": split,
            "num_samples": 8,
            "filenames": [f"toy-{split}-{name}" for name in names],
            "shard_lengths": [8 // shards] * shards,
        }
        for split in ("train", "validation")
    }
    (root / "_info.json").write_text(json.dumps({"splits": splits}))
