"""Train a small supervised teacher and store it in timm's local-dir format.

The teacher that ships with leapcore (four minutes on one core), and those for Fashion-MNIST:

    python benchmarks/train_teacher.py
    python benchmarks/train_teacher.py --teacher fashion-mnist-vit
    python benchmarks/train_teacher.py --teacher fashion-mnist-convnext
    python benchmarks/train_teacher.py --teacher fashion-mnist-coatnet

Beside the weights (float16 safetensors) it writes ``training.json``: the settings, the versions, and loss
and accuracy per epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from leapcore import create_timm_model
from leapcore.compat import import_timm
from leapcore.data.batches import TrainingBatches, evaluation_batches
from leapcore.export.student import export_timm
from leapcore.plugins.loader import installed_plugins
from leapcore.spec import AugmentSpec, DataSpec


class Setting(NamedTuple):
    """A data set, and a teacher that suits it."""

    data: DataSpec
    model: str
    options: dict[str, Any]
    epochs: int
    batch_size: int
    optimizer: dict[str, Any]
    drop_path: float
    output: Path


FASHION = DataSpec(
    source="torch/fashion_mnist",
    root="data/fashion-mnist",
    val="validation",
    image_size=28,
    crop=1.0,
    augment=AugmentSpec(scale=(1.0, 1.0), flip=0.5, color=0, gray=0, blur=0),
    workers=1,
)

SETTINGS = {
    "digits-vit": Setting(
        data=DataSpec(
            source="digits",
            image_size=32,
            crop=1.0,
            augment=AugmentSpec(scale=(0.6, 1.0), flip=0, color=0, gray=0, blur=0),
            workers=0,
        ),
        model="vit_tiny_patch16_224",
        options={"img_size": 32, "patch_size": 8, "embed_dim": 72, "depth": 12, "num_heads": 3},
        epochs=100,
        batch_size=64,
        optimizer={"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05, "filter_bias_and_bn": False},
        drop_path=0.05,
        output=Path("leapcore/models/assets/digits-vit"),
    ),
    "fashion-mnist-vit": Setting(
        data=FASHION,
        model="vit_tiny_patch16_224",
        options={
            "img_size": 28,
            "patch_size": 7,
            "embed_dim": 96,
            "depth": 12,
            "num_heads": 4,
            # Learning from the mean over tokens is faster than from a class token.
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        },
        epochs=7,
        batch_size=64,
        # AdamW needs several times as many epochs for the same accuracy.
        optimizer={"opt": "muon", "lr": 4e-3, "weight_decay": 0.05},
        drop_path=0.0,
        output=Path("benchmarks/fashion_mnist/teacher"),
    ),
    "fashion-mnist-convnext": Setting(
        data=FASHION,
        model="convnext_tiny",
        # Strides and kernels for 28 px: grids of 28, 14, 7 and 3.
        options={"depths": [1, 2, 6, 2], "dims": [8, 24, 80, 160], "patch_size": 1, "kernel_sizes": 3},
        epochs=7,
        batch_size=64,
        optimizer={"opt": "adamw", "lr": 2e-3, "weight_decay": 0.05},
        drop_path=0.0,
        output=Path("benchmarks/transfer/teachers/convnext"),
    ),
    "fashion-mnist-coatnet": Setting(
        data=FASHION,
        model="coatnet_0_rw_224",
        # Convolutions on a grid of 7, attention on one of 4.
        options={
            "img_size": 28,
            "stem_width": [24, 24],
            "embed_dim": [64, 128],
            "depths": [3, 7],
            "block_type": ["C", ["C", "T", "T", "T", "T", "T", "T"]],
            "conv_padding": "same",
        },
        epochs=7,
        batch_size=64,
        optimizer={"opt": "adamw", "lr": 1e-3, "weight_decay": 0.05},
        drop_path=0.0,
        output=Path("benchmarks/transfer/teachers/coatnet"),
    ),
}


def main() -> None:
    arguments = _arguments()
    setting = SETTINGS[arguments.teacher]
    epochs, output = arguments.epochs or setting.epochs, arguments.output or setting.output
    torch.manual_seed(arguments.seed)
    family, _, name = setting.data.source.partition("/")
    splits = installed_plugins().get("datasets", family)(setting.data, name, arguments.seed)
    batches = TrainingBatches(splits.train, setting.data, setting.batch_size, arguments.seed)
    test = partial(evaluation_batches, splits.val, setting.data, 256)
    model = create_timm_model(
        setting.model, "none", {**setting.options, "num_classes": 10, "drop_path_rate": setting.drop_path}
    )
    started = time.perf_counter()
    history = train(model, batches, test, epochs, setting.optimizer)
    model.reset_classifier(0)
    export_timm(model.half(), output, setting.options)
    record = {
        "command": f"python benchmarks/train_teacher.py --teacher {arguments.teacher} --epochs {epochs}"
        f" --seed {arguments.seed}",
        "test_accuracy": history[-1]["test_accuracy"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "minutes": round((time.perf_counter() - started) / 60, 1),
        "data": setting.data.model_dump(mode="json"),
        "training": {
            "batch_size": setting.batch_size,
            "optimizer": setting.optimizer,
            "drop_path": setting.drop_path,
        },
        "model": {"name": setting.model, **setting.options},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "history": history,
    }
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"test accuracy {record['test_accuracy']:.4f}, {record['parameters']} parameters")


def train(model, batches: TrainingBatches, test, epochs: int, optimizer_options) -> list[dict[str, float]]:
    """Warm-up and cosine, cross-entropy with label smoothing."""
    steps = epochs * batches.steps_per_epoch
    warmup = 0.05 * steps
    import_timm()
    from timm.optim import create_optimizer_v2

    optimizer = create_optimizer_v2(model, **optimizer_options)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1 + math.cos(math.pi * s / steps)))
    )
    history = []
    for epoch in range(epochs):
        model.train()
        losses = []
        for batch in batches.epoch(epoch):
            logits = model(normalised(batch.pixels, model))
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        accuracy = test_accuracy(model, test)
        history.append({"epoch": epoch + 1, "loss": sum(losses) / len(losses), "test_accuracy": accuracy})
        print(f"epoch {epoch + 1}: loss {history[-1]['loss']:.3f}, test accuracy {accuracy:.4f}", flush=True)
    return history


@torch.no_grad()
def test_accuracy(model, test) -> float:
    model.eval()
    hits = [(model(normalised(pixels, model)).argmax(1) == labels).float() for pixels, labels in test()]
    return torch.cat(hits).mean().item()


def normalised(pixels, model):
    """The model's own normalisation."""
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    return (pixels.float() / 255 - mean) / std


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--teacher", choices=SETTINGS, default="digits-vit")
    parser.add_argument("--output", type=Path, help="the setting's own folder if not given")
    parser.add_argument("--epochs", type=int, help="the setting's own length if not given")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
