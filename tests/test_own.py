"""docs/own.md as a reader follows it: the recipe, images in folders, images alone, at a small size."""

import shlex
from pathlib import Path

from ruamel.yaml import YAML
from test_docs import blocks

from leapcore import load_spec

SMALL = {
    "teacher": '{backbone: vit, weights: "asset:digits-vit"}',
    "student.options": "{patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3}",
    "data.image_size": 32,
    "data.workers": 0,
    "train": "{duration: 2st, batch_size: 8}",
    "evaluate": "{knn: end, linear: never}",
}


def draw(folder, count):
    """Images of stripes, one in so many pixels."""
    from PIL import Image

    folder.mkdir(parents=True)
    for index in range(count):
        Image.effect_noise((40, 32), 20 + index).save(folder / f"{index}.png")


def test_the_page_is_followed(leapcore_, tmp_path):
    for split, name in [(split, name) for split in ("train", "val") for name in ("cats", "dogs")]:
        draw(tmp_path / "data" / split / name, 8)
    commands = [shlex.split(line) for block in blocks("docs/own.md", "sh") for line in block.splitlines()]
    for program, *words in commands:
        small = [f"--set={key}={value}" for key, value in SMALL.items()]
        code, _, err = leapcore_(*words, *(small if words[0] in ("validate", "plan", "run", "eval") else []))
        assert (program, code, "Error" in err) == ("leapcore", 0, False), (words, err)
        if words[:2] == ["recipes", "copy"]:
            Path("labelled.yaml").write_text(Path(words[-1]).read_text())
    assert load_spec("runs/fixed/spec.yaml").curriculum.scheduler == "fixed"


def test_images_without_labels_are_enough(leapcore_, tmp_path):
    draw(tmp_path / "data/photos", 16)
    unlabelled = YAML(typ="safe").load(blocks("docs/own.md", "yaml")[-1])
    settings = {**SMALL, "data.train": unlabelled["data"]["train"], "data.val": unlabelled["data"]["val"]}
    settings["evaluate"] = "{knn: never, linear: never}"
    code, out, err = leapcore_(
        "run", "own-images", *(f"--set={key}={value}" for key, value in settings.items())
    )
    assert (code, "accuracy is not evaluated" in err) == (0, False), err
    assert "own-images: finished" in out
    assert (tmp_path / "runs/own-images/student/model.safetensors").exists()
