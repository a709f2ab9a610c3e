"""What the shell completes, and how little is imported for it."""

import os
import subprocess
import sys

import pytest


def _completed(words, **options):
    environment = {
        "_LEAPCORE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    program = "import sys; sys.argv = ['leapcore']; from leapcore.cli import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", program]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, **options
    )
    return done.stdout.split(), done.stderr


def test_recipes_and_files_are_completed_and_nothing_heavy_is_imported(tmp_path):
    (tmp_path / "quick.yaml").touch()
    found, imported = _completed("leapcore run qu", cwd=tmp_path)
    assert found == ["quickstart", "quick.yaml"]
    assert "leapcore.cli" in imported
    assert not any(f"| {name}" in imported for name in ("torch", "leapcore.spec", "rich.table"))


def test_overrides_are_completed_with_the_values_of_the_spec_that_is_named(spec_file):
    found, imported = _completed(f"leapcore run {spec_file} --set train.")
    assert {"train.duration=2st", "train.batch_size=64", "train.seed=0"} <= set(found)
    assert "torch" not in imported


@pytest.mark.parametrize("source", [[], ["quickstart"], ["nowhere.yaml"]])
def test_overrides_and_families_in_this_process(source):
    from typer import Context
    from typer.main import get_command

    from leapcore.cli import app, completion

    context = Context(get_command(app))
    context.args = source
    assert completion.assignments(context, "curriculum.thr") == ["curriculum.threshold=0.95"]
    assert completion.assignments(context, "data.augment.scale") == ["data.augment.scale=[0.6,1.0]"]
    assert completion.families("vi") == ["vit"]
    assert completion.recipes("leap-vits14-imagenet1") == [
        "leap-vits14-imagenet100",
        "leap-vits14-imagenet1k",
    ]
