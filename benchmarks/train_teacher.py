"""Train a small supervised teacher on an embedded data set and store it in timm's local-dir format.

The teacher that ships with leapcore was made by, in about four minutes on two cores:

    python benchmarks/train_teacher.py

Beside the weights (float16 safetensors) it writes ``training.json``: the settings, the versions, and loss
and accuracy per epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from leapcore import Duration, create_timm_model
from leapcore.engine.data import TrainingBatches, evaluation_batches
from leapcore.engine.sources import ImageSplits, digits
from leapcore.export import export_timm
from leapcore.spec import AugmentSpec, DataSpec

MODEL = "vit_tiny_patch16_224"
OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 72, "depth": 12, "num_heads": 3}
DATA = DataSpec(
    source="digits",
    image_size=32,
    crop=1.0,
    augment=AugmentSpec(scale=(0.6, 1.0), flip=0, color=0, gray=0, blur=0),
    workers=0,
)


def main() -> None:
    arguments = _arguments()
    torch.manual_seed(arguments.seed)
    splits = digits(DATA, "")
    batches = TrainingBatches(splits.train, DATA, arguments.batch_size, arguments.seed)
    model = create_timm_model(MODEL, "none", {**OPTIONS, "num_classes": 10, "drop_path_rate": 0.05})
    started = time.perf_counter()
    history = train(model, batches, splits, arguments)
    model.reset_classifier(0)
    export_timm(model.half(), arguments.output, OPTIONS)
    record = {
        "command": f"python benchmarks/train_teacher.py --epochs {arguments.epochs} --seed {arguments.seed}",
        "test_accuracy": history[-1]["test_accuracy"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "settings": vars(arguments) | {"output": str(arguments.output), "model": MODEL, "options": OPTIONS},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "history": history,
    }
    (arguments.output / "training.json").write_text(json.dumps(record, indent=1))
    print(f"test accuracy {record['test_accuracy']:.4f}, {record['parameters']} parameters")


def train(model, batches: TrainingBatches, splits: ImageSplits, arguments) -> list[dict[str, float]]:
    """AdamW with warm-up and cosine, cross-entropy with label smoothing."""
    steps = arguments.epochs * batches.steps_per_epoch
    warmup = Duration(5, "ep").in_steps(batches.steps_per_epoch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    history = []
    for epoch in range(arguments.epochs):
        model.train()
        losses = []
        for pixels, labels in batches.epoch(epoch):
            loss = F.cross_entropy(model(normalised(pixels)), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        accuracy = test_accuracy(model, splits)
        history.append({"epoch": epoch + 1, "loss": sum(losses) / len(losses), "test_accuracy": accuracy})
        print(f"epoch {epoch + 1}: loss {history[-1]['loss']:.3f}, test accuracy {accuracy:.4f}", flush=True)
    return history


@torch.no_grad()
def test_accuracy(model, splits: ImageSplits) -> float:
    model.eval()
    hits = [
        (model(normalised(pixels)).argmax(1) == labels).float()
        for pixels, labels in evaluation_batches(splits.val, DATA, 256)
    ]
    return torch.cat(hits).mean().item()


def normalised(pixels):
    """This family's own normalisation: mean 0.5, standard deviation 0.5."""
    return pixels.float() / 255 * 2 - 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("leapcore/assets/digits-vit"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
