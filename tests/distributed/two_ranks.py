"""Started twice by test_ranks.py: does in two processes what the tests then compare with one."""

import json
import sys
from pathlib import Path

import pytest
import torch

from leapcore import linear_cka, load_spec, mean_cosine, run
from leapcore.core.losses import sigreg
from leapcore.data.batches import TrainingBatches, evaluation_batches
from leapcore.data.sources import from_timm
from leapcore.distributed.ranks import join
from leapcore.errors import DataError, LeapcoreError
from leapcore.spec import DataSpec
from leapcore.train.build import build
from leapcore.train.loop import Loop

sys.path.append(str(Path(__file__).parents[1]))
import counted_once


def main(spec: Path, output: Path) -> None:
    ranks = join()
    counted_once.remember(pytest.MonkeyPatch())
    found = {
        "scores": scores(ranks),
        "permuted": permuted(ranks),
        "sigreg gradient": sigreg_gradient(ranks),
        "failed together": failed_together(ranks),
        "differ": message(lambda: ranks.check_equal({"the weather": "fine", "the rank": ranks.rank})),
        "from the first": ranks.broadcast(f"rank {ranks.rank}"),
        "diverged": diverged(spec, ranks),
        "stream": stream(output / "shards", ranks),
    }
    (output / f"rank{ranks.rank}.json").write_text(json.dumps(found))
    for name, overrides in json.loads((output / "runs.json").read_text()).items():
        resume = overrides.pop() if overrides[-1].startswith("step-") else None
        folder = output / name.partition(" ")[0]
        run(load_spec(spec, overrides), output=folder, resume=resume)
    torch.distributed.destroy_process_group()


def rows():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 8, generator=generator)
    return x, x @ torch.randn(8, 5, generator=generator) + torch.randn(60, 5, generator=generator) + 3


def scores(ranks):
    """Of all rows, with this rank's half, and with an uneven share: none on the first rank."""
    x, y = rows()
    even, uneven = ranks.share(60), slice(0, 0) if ranks.is_first else slice(0, 60)
    return [
        score(x[part], y[part], parts=ranks).item()
        for part in (even, uneven)
        for score in (linear_cka, lambda a, b, parts: linear_cka(a, b, unbiased=True, parts=parts))
    ] + [mean_cosine(x[even], x[even] * 2 + 1, parts=ranks).item()]


def permuted(ranks):
    images = torch.arange(12, dtype=torch.uint8).view(12, 1).expand(12, 3)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    return ranks.permute(images[ranks.share(12)].contiguous(), order)[:, 0].tolist()


def sigreg_gradient(ranks):
    """Averaged over the ranks, as DeepSpeed does."""
    x, _ = rows()
    weight = torch.eye(8, requires_grad=True)
    sigreg(ranks.all_gather_rows(x[ranks.share(60)] @ weight)).backward()
    return ranks.all_reduce(weight.grad, "mean").flatten().tolist()


def failed_together(ranks):
    def act():
        if ranks.rank == 1:
            raise DataError("no images", "Add some.")

    return message(lambda: ranks.on_all(act))


def diverged(spec, ranks):
    """One rank's curriculum moves, the other's does not."""
    loop = Loop(build(load_spec(spec, ["curriculum={scheduler: fixed, layer: 2}"]), ranks))
    if ranks.rank == 1:
        loop.parts.teachers[0].scheduler.step = lambda score: vars(loop.parts.teachers[0].scheduler).update(
            target=4
        )
    return message(loop.fit)


def stream(root, ranks):
    """What this process is given of a stream, and how many images it evaluates on."""
    where = {"source": "wds/toy", "root": str(root), "val": "validation"}
    data = DataSpec(**where, image_size=16, workers=0, augment={"color": 0, "gray": 0})
    splits = from_timm(data, "toy", 0)
    batches = TrainingBatches(splits.train, data, 2, 0, ranks)
    reds = [round(pixels[:, 0].float().mean().item() / 30) for pixels, *_ in batches.epoch(0)]
    return {"reds": reds, "val": sum(len(labels) for _, labels in evaluation_batches(splits.val, data, 4))}


def message(act):
    try:
        act()
    except LeapcoreError as error:
        return f"{error.shared} {error.cause}"
    return ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
