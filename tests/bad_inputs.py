"""What users get wrong, and what leapcore says to it: run by test_bad_inputs.py, told by docs/troubleshooting.md.

Each command is run in a folder that holds the sound ``spec.yaml`` of conftest.py and what ``prepare`` puts there.
"""

import errno
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import NamedTuple

from conftest import SPEC

KEYS = "All keys: leapcore schema --markdown"
BENCH = """\
name: toy
base: spec.yaml
teachers: {vit: {backbone: vit, weights: "asset:digits-vit"}}
students:
  narrow: {backbone: vit, model: vit_tiny_patch16_224, options: {patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3}}
methods: {fixed: {curriculum: {scheduler: fixed}}, leap: {}}
seeds: [0, 1]
baseline: fixed
"""


class Bad(NamedTuple):
    """A mistake.

    Attributes:
        command: What the user types after ``leapcore``.
        message: What the first lines of the error must hold.
        cause: Why it comes, for the page.
        remedy: What the line after it must hold.
        prepare: Puts files into the current folder, or changes the surroundings.
    """

    command: str
    message: str
    cause: str
    remedy: str
    prepare: Callable = lambda monkeypatch: None


def file(name, content):
    return lambda monkeypatch: Path(name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def spec(old, new):
    return file("spec.yaml", SPEC.replace(old, new))


def bench(old="", new=""):
    return file("bench.yaml", BENCH.replace(old, new) if old else BENCH)


def images(change=lambda train, val: None):
    """Two classes to train and to validate in data/, and what is done to them."""
    from PIL import Image

    def prepare(monkeypatch):
        for split in ("train", "val"):
            for label in ("cats", "dogs"):
                Path("data", split, label).mkdir(parents=True)
                Image.new("RGB", (16, 16)).save(Path("data", split, label, "0.png"))
        change(Path("data/train"), Path("data/val"))

    return prepare


def weights_folder(change):
    """The teacher that ships, copied to model/ and damaged."""

    def prepare(monkeypatch):
        from leapcore.spec.paths import weights_path

        shutil.copytree(weights_path("asset:digits-vit"), "model")
        change(Path("model"))

    return prepare


def run(change=lambda folder: None):
    """A run in runs/mine that was stopped after its second checkpoint, and what is done to it."""

    def prepare(monkeypatch):
        shutil.copytree(_stopped_run(), "runs/mine")
        change(Path("runs/mine"))

    return prepare


@functools.cache
def _stopped_run():
    from leapcore import load_spec
    from leapcore import run as run_spec

    folder = Path(tempfile.mkdtemp())
    (folder / "spec.yaml").write_text(SPEC)
    run_spec(load_spec(folder / "spec.yaml", ["checkpoint.every=1st"]), output=folder / "run")
    (folder / "run" / "summary.json").unlink()
    return folder / "run"


def plugin(code):
    """A package of somebody else's is installed."""

    def prepare(monkeypatch):
        import leapcore.plugins.loader

        Path("theirs.py").write_text(code)
        monkeypatch.syspath_prepend(Path.cwd())
        monkeypatch.delitem(sys.modules, "theirs", raising=False)
        found = leapcore.plugins.loader.entry_points(group="leapcore")
        point = EntryPoint("theirs", "theirs", "leapcore")
        monkeypatch.setattr(leapcore.plugins.loader, "entry_points", lambda group: [*found, point])

    return prepare


def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def without_onnx(monkeypatch):
    run()(monkeypatch)
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)


def launched_by_another(monkeypatch):
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)


def _empty(folder, left=None):
    for image in folder.rglob("*.png"):
        image.rename(image.with_name(left)) if left else image.unlink()


def forbidden(name, prepare=lambda monkeypatch: None):
    """A file or folder that may not be read; permissions mean nothing to root, who may run the tests."""

    def refused(open_):
        def inner(path, *arguments, **options):
            if str(path) == name:
                raise PermissionError(errno.EACCES, "Permission denied", name)
            return open_(path, *arguments, **options)

        return inner

    def prepare_and_forbid(monkeypatch):
        prepare(monkeypatch)
        monkeypatch.setattr("os.scandir", refused(os.scandir))
        monkeypatch.setattr(Path, "read_text", refused(Path.read_text))

    return prepare_and_forbid


HOOK = "import leapcore\n@leapcore.hookimpl\ndef {}(registry):\n    {}\n"
FOLDER = "--set data.source=folder --set data.train=data/train --set data.val=data/val"
VIT = "--set teacher.model=vit_tiny_patch16_224"

BAD = {
    "The spec's file": [
        Bad("run nowhere.yaml", "'nowhere.yaml' is neither a file nor a recipe", "No such file in this folder, and no recipe of that name.", "Recipes are listed by: leapcore recipes"),
        Bad("run spec.yml", "'spec.yml' is neither a file nor a recipe", "A slip in the name: the nearest file or recipe is suggested.", "Did you mean 'spec.yaml'?"),
        Bad("validate spec.yaml", "spec.yaml:2: this is not YAML", "A bracket, quote or colon is missing, most often in the line before the one named.", "Correct that line or the one before it.", file("spec.yaml", "name: [mine\ndata: 1\n")),
        Bad("validate spec.yaml", "found character '\\t' that cannot start any token", "YAML is indented by spaces; this line begins with a tab.", "Correct that line or the one before it.", file("spec.yaml", "name: mine\nteacher:\n\tbackbone: vit\n")),
        Bad("validate spec.yaml", "found duplicate key \"name\"", "A key is there twice, and only one of them could count.", "Correct that line or the one before it.", file("spec.yaml", "name: a\nname: b\n")),
        Bad("validate spec.yaml", "a spec is a mapping of sections", "The file is empty, or holds a list or bare text.", "Start from: leapcore recipes copy quickstart", file("spec.yaml", "")),
        Bad("validate spec.yaml", "spec.yaml: cannot be read", "The file is no text in UTF-8: another encoding, or a binary file.", "A spec is a text file in UTF-8.", file("spec.yaml", b"name: caf\xe9")),
        Bad("validate spec.yaml", "spec.yaml: cannot be read: Permission denied", "The file belongs to somebody else.", "Mend its permissions, or name another file.", forbidden("spec.yaml")),
        Bad("validate spec.yaml", "spec.yaml:4: data.source: is missing", "A key that has no default is not there.", KEYS, spec("source: digits, ", "")),
        Bad("validate spec.yaml", "spec.yaml:6: trian: unknown key", "A section or key that leapcore does not know; the nearest one is suggested.", KEYS, spec("train:", "trian:")),
        Bad("validate leap-vits14-imagenet100", "data.train: folder 'data/imagenet100/train' does not exist", "The recipe waits for images that nobody can ship.", "Set data.train to a folder that holds images, or one sub-folder of them per class."),
    ],
    "Values in the spec": [
        Bad("run spec.yaml --set train.seed", "--set train.seed: not of the form key=value", "An override without a value.", "Write --set section.key=value."),
        Bad("run spec.yaml --set 'student.options={depth: 6'", "the value is not YAML", "Values are YAML: a bracket is open, or the shell took a quote away.", "Quote it."),
        Bad("run spec.yaml --set name.x=1", "'name' is a value, not a section", "An override goes deeper than the spec does.", "Set the value itself."),
        Bad("run spec.yaml --set train.sed=1", "--set: train.sed: unknown key. Did you mean 'seed'?", "A slip in a key's name.", KEYS),
        Bad("run spec.yaml --set train.lr=1", "--set: train.lr: unknown key. Did you mean optimizer.lr?", "The key belongs to another section.", KEYS),
        Bad("run spec.yaml --set train.epochs=9", "--set: train.epochs: unknown key. Write train.duration: 10ep.", "A length has its unit with it: epochs or steps.", KEYS),
        Bad("run spec.yaml --set name=a/b", "name: should be letters, digits, '_', '.' or '-'", "It names a folder.", "name: Names the output folder, runs/<name>."),
        Bad("run spec.yaml --set data.augment.scale=0.5", "data.augment.scale: should be a list of two numbers, such as [0.5, 1.0], got 0.5", "A range has two ends.", "data.augment.scale: Smallest and largest share"),
        Bad("run spec.yaml --set evaluate.knn=yes", "(steps); or should be 'end' or 'never', got 'yes'", "It is a moment, not a switch.", "evaluate.knn: Accuracy of the 20 nearest neighbours"),
        Bad("run spec.yaml --set optimizer.lr=", "optimizer.lr: should be a number, got nothing (null)", "The value is missing; the shell may have cut it off.", "optimizer.lr: Peak learning rate"),
        Bad("run spec.yaml --set train.seed=x", "--set: train.seed: should be an integer", "A value of another type.", KEYS),
        Bad("run spec.yaml --set train=3", "--set: train: should be a section of keys, got 3", "A value where a section belongs; `--set train.seed=3` sets one key.", KEYS),
        Bad("run spec.yaml --set optimizer.lr=-1", "optimizer.lr: should be greater than 0", "A value out of its range.", KEYS),
        Bad("run spec.yaml --set train.duration=5", "a duration is written like '5ep' (epochs) or '2000st' (steps), got 5", "A length of training without its unit.", KEYS),
        Bad("run spec.yaml --set optimizer.schedule=linear", "optimizer.schedule: should be 'cosine' or 'constant', got 'linear'", "One of a few words was expected.", KEYS),
        Bad("run spec.yaml --set curriculum.treshold=1", "curriculum.treshold: the scheduler 'cka' has no such option. Did you mean 'threshold'?", "The scheduler has no such option.", KEYS),
        Bad("run spec.yaml --set curriculum.scheduler=ckaa", "unknown scheduler 'ckaa'", "No installed plugin has a scheduler of that name.", "Did you mean 'cka'?"),
        Bad("run spec.yaml --set objective.patch=mes", "unknown loss 'mes'", "No installed plugin has a loss of that name.", "Did you mean 'mse'?"),
        Bad("run spec.yaml --set data.source=digit", "unknown data source 'digit'", "No installed plugin has a data source of that name.", "Did you mean 'digits'?"),
        Bad("run spec.yaml --set optimizer.name=adamv", "no optimizer 'adamv'", "timm has no optimizer of that name.", "Did you mean"),
        Bad("run spec.yaml --set curriculum.start=13", "start is 13, but the curriculum chooses from layers 1 to 12", "The teacher has fewer layers than that.", "Name one of these layers; target: layer+last keeps the last one for itself."),
        Bad("run spec.yaml --set curriculum.start=12 --set objective.target=layer+last", "start is 12, but the curriculum chooses from layers 1 to 11", "With layer+last the last layer is a target at all times, so the curriculum ends before it.", "Name one of these layers; target: layer+last keeps the last one for itself."),
        Bad("run spec.yaml --set objective.target=all", "leaves a curriculum nothing to choose: write {scheduler: fixed}", "With all layers as targets there is no curriculum.", KEYS),
        Bad("run spec.yaml --set objective.reduction=sum", "reduction belongs to target: all", "It says how the losses of all layers are put together; there is one layer here.", KEYS),
        Bad("run spec.yaml --set teachers.a.backbone=vit", "give 'teacher' or 'teachers'", "The spec names one teacher and several.", KEYS),
        Bad("run spec.yaml --set cache.folder=cache", "cache.folder needs objective.mixup: false", "A mixed image never comes twice, so nothing would be found in the cache.", KEYS),
        Bad("run spec.yaml --set engine.offload=all", "offload needs zero_stage: 1 or more", "Without ZeRO there is nothing that could be kept elsewhere.", KEYS),
        Bad("run spec.yaml --set engine.deepspeed.bf16.enabled=true", "deepspeed.bf16 is what train.precision says: set it there alone", "DeepSpeed's setting follows from a key of the spec.", KEYS),
        Bad("run spec.yaml --set engine.deepspeed.gradient_cliping=1", "DeepSpeed knows no setting 'gradient_cliping'", "What is passed on to DeepSpeed is checked, too.", "Did you mean 'gradient_clipping'?"),
    ],
    "Models": [
        Bad("run spec.yaml --set student.backbone=vitt", "student.backbone: unknown backbone 'vitt'", "No installed plugin has a backbone family of that name.", "Did you mean 'vit'?"),
        Bad("run spec.yaml --set student.model=vit_teeny", "student: timm has no model 'vit_teeny'", "timm does not know that name.", "Did you mean"),
        Bad("run spec.yaml --set student.model=", "student: no 'model' is named", "Only a folder of weights tells the model by itself.", "Name one, or give a folder as 'weights', which names it."),
        Bad("run spec.yaml --set student.backbone=convnext", "which the backbone family 'convnext' does not take", "Family and model do not belong together.", "`leapcore backbones MODEL` finds the family that fits; 'timm' takes most others."),
        Bad("run spec.yaml --set student.options={depth:4}", "student.options: 'depth:4' is no name of an argument; in YAML, a space follows a colon", "A slip of YAML: without the space, key and value are one word.", "leapcore schema --markdown"),
        Bad("run spec.yaml --set student.options.dept=3", "student: vit_tiny_patch16_224 does not take these options", "The model's constructor has no such argument, or not for such a value.", "Options given: "),
        Bad("run spec.yaml --set student.options.num_heads=5", "student: vit_tiny_patch16_224 cannot be built: dim should be divisible by num_heads", "Options that do not go together.", "Options given: "),
        Bad("run spec.yaml --set student.options.depth=0", "has no layers", "A model without blocks has nothing to train against.", "Give it at least one block."),
        Bad("run spec.yaml --set data.image_size=30", "image size 30 x 30 cannot be cut into", "The image's side is no multiple of the patch's.", "Use a multiple, such as 24 or 32."),
        Bad("backbones vit_tiny_patch16_224 --option depth", "--option depth: not of the form key=value", "An option without a value.", "Write --option depth=6."),
    ],
    "Weights": [
        Bad("run spec.yaml --set teacher.weights=gone.pth", "weights 'gone.pth' do not exist", "No such file or folder here.", "Give a file, a folder with config.json and model.safetensors, 'pretrained' or 'none'."),
        Bad("run spec.yaml --set teacher.weights=asset:digit-vit", "leapcore ships no weights named 'digit-vit'", "A slip in the name of weights that ship.", "Did you mean 'digits-vit'?"),
        Bad(f"run spec.yaml --set teacher.weights=teacher.pth {VIT}", "weights 'teacher.pth' cannot be loaded", "The file is damaged, a web page that was saved in its place, or a pickle that could run code.", "Have them saved as .safetensors, or as a state dict alone.", file("teacher.pth", "<html>Not found</html>")),
        Bad(f"run spec.yaml --set teacher.weights=teacher.safetensors {VIT}", "weights 'teacher.safetensors' cannot be loaded into vit_tiny_patch16_224", "The file is cut short, or of another model.", "Give weights of this very architecture, and the options that they were made with.", file("teacher.safetensors", b"no tensors")),
        Bad("run spec.yaml --set teacher.model=resnet18", "are of vit_tiny_patch16_224, not of resnet18", "The folder of weights names another model than the spec.", "Leave 'model' out, or set it to vit_tiny_patch16_224."),
        Bad("run spec.yaml --set teacher.weights=model", "folder 'model' holds no weights", "config.json is there, the weights' file is not.", "It needs model.safetensors or pytorch_model.bin.", weights_folder(lambda folder: (folder / "model.safetensors").unlink())),
        Bad("run spec.yaml --set teacher.weights=model", "its config.json cannot be used", "The folder is not in timm's format, or its config.json is damaged.", "Give a folder in timm's local-dir format: config.json and model.safetensors.", weights_folder(lambda folder: (folder / "config.json").write_text("{"))),
        Bad("run spec.yaml --set student.weights=pretrained", "the pretrained weights of vit_tiny_patch16_224 cannot be had", "There is no network, or nobody published weights of this model.", "Downloads need a network, and not every model has weights; or give a file or a folder.", offline),
    ],
    "Images": [
        Bad("run spec.yaml --set data.source=folder --set data.train=gone", "data.train: folder 'gone' does not exist", "Paths are seen from where the command is run.", "Set data.train to a folder that holds images, or one sub-folder of them per class."),
        Bad("validate spec.yaml --set data.source=folder --set data.train=spec.yaml", "data.train: 'spec.yaml' is a file, not a folder", "An image, or a list of images, was named.", "Set data.train to a folder that holds images, or one sub-folder of them per class."),
        Bad(f"validate spec.yaml {FOLDER}", "data.val: folder 'data/val/dogs' cannot be read: Permission denied", "A folder belongs to somebody else.", "Mend its permissions.", forbidden("data/val/dogs", images())),
        Bad(f"validate spec.yaml {FOLDER}", "data.train: folder 'data/train' holds no images", "The class folders are empty.", "Set data.train to a folder that holds images, or one sub-folder of them per class (.jpg, .png, …).", images(lambda train, val: _empty(train))),
        Bad(f"run spec.yaml {FOLDER}", "data.train: folder 'data/train' holds no images", "The class folders hold files of other kinds.", "Set data.train to a folder that holds images, or one sub-folder of them per class (.jpg, .png, …).", images(lambda train, val: _empty(train, "notes.txt"))),
        Bad(f"run spec.yaml {FOLDER}", "data.train: no images in class folder 'birds'", "An empty class would shift the labels of all after it.", "Add images to it, or remove the folder if that class is not wanted.", images(lambda train, val: (train / "birds").mkdir())),
        Bad(f"run spec.yaml {FOLDER}", "data.val 'data/val' has classes that data.train has not: horses", "The two folders were made from different lists.", "Both folders need the same class folders, or the labels would not match.", images(lambda train, val: (val / "dogs").rename(val / "horses"))),
        Bad("run spec.yaml --set data.source=folder --set data.train=data --set data.val=data", "lies deeper in 'data' than one class folder", "The folder above the classes' was named.", "Arrange the images as data/CLASS/IMAGE.", images()),
        Bad(f"run spec.yaml {FOLDER}", "train.batch_size is 64, but there are only 2 training images", "Not one full batch: nothing would be trained.", "Set train.batch_size to 2 or less.", images()),
        Bad("validate spec.yaml --set data.source=wds/photos", "data.root is missing: 'wds/photos' reads files", "Shards and torchvision's data sets are read from a folder.", "Set it to their folder."),
        Bad("run spec.yaml --set data.source=torch/cifar10 --set data.root=.", "data.source 'torch/cifar10' cannot be opened for split 'train'", "The files are not in data.root; leapcore downloads no data sets of torchvision.", "Check source, root, split and keys; hfds, hfids and wds need: pip install 'leapcore[data]'."),
        Bad("run spec.yaml --set 'evaluate.retrieval=[roxford5k]'", "gnd_roxford5k.pkl cannot be used as ground truth: No such file", "The folder lacks what is published with the images.", "Fetch it from where the data set is published."),
    ],
    "Output folders and checkpoints": [
        Bad("run spec.yaml --output spec.yaml", "output 'spec.yaml' is a file", "A file has the folder's name.", "Name a folder with --output."),
        Bad("run spec.yaml --output .", "output folder '.' holds other files, not a run", "A run writes only into a folder of its own.", "Name another folder with --output."),
        Bad("run spec.yaml", "output folder 'runs/mine' already holds", "An earlier run has that name.", "with --overwrite, or keep both with --output DIR.", run()),
        Bad("run spec.yaml --overwrite --resume", "--overwrite and --resume contradict each other", "One begins anew, the other goes on.", "Give one of them."),
        Bad("run spec.yaml --resume", "there is no checkpoint in 'runs/mine' to go on from", "No run was saved there: another --output, or it ended before its first checkpoint.", "Start the run without --resume."),
        Bad("run spec.yaml --resume step-00000009", "there is no checkpoint 'step-00000009'", "Only the newest checkpoints are kept (checkpoint.keep).", "There are: step-00000001, step-00000002.", run()),
        Bad("run spec.yaml --resume --set train.batch_size=32", "train.batch_size: 64 -> 32", "This setting cannot change within a run.", "Take the change back; or start a new run in another folder, from these weights if you like: student.weights.", run()),
        Bad("run spec.yaml --resume", "weights.safetensors is missing", "A checkpoint is damaged: a copy was cut short, or files were removed.", "step-00000001", run(lambda folder: (folder / "checkpoints/step-00000002/weights.safetensors").unlink())),
        Bad("export nowhere", "'nowhere' is no folder of a run", "The folder does not exist, or leapcore run did not write it.", "Give the folder that a run wrote, such as runs/NAME."),
        Bad("export runs/mine/student", "'runs/mine/student' is a student's folder", "The student lies in its run's folder, where the rest is that an export needs.", "Name its run: leapcore export runs/mine", run()),
        Bad("export runs/mine --format onnx", "writing ONNX needs onnx, onnxscript, onnxruntime", "These packages are not installed with leapcore itself.", "Run: pip install 'leapcore[onnx]'", without_onnx),
    ],
    "Other commands": [
        Bad("recipes show quikstart", "there is no recipe 'quikstart'", "A slip in the recipe's name.", "Did you mean 'quickstart'?"),
        Bad("recipes copy quickstart spec.yaml", "'spec.yaml' exists already", "Nothing is overwritten.", "Name another file."),
        Bad("recipes copy quickstart no/such/x.yaml", "'no/such/x.yaml' cannot be written", "The folder does not exist, or is not yours to write to.", "Make the folder 'no/such' first, or name another file."),
        Bad("eval knn no/such/folder --spec spec.yaml", "there is no folder 'no/such/folder'", "The folder is not there, or not where the command is run.", "Name a run's or a student's folder, or a model of timm's."),
        Bad("eval knn student --spec spec.yaml", "timm has no model 'student'", "No folder is called like that, so the name was taken for one of timm's.", "`leapcore backbones PART` lists the names that hold PART; if a folder was meant, it does not exist."),
        Bad("eval linear . --spec spec.yaml", "folder '.' is no timm model", "The folder is not a student's, such as runs/NAME/student.", "Give a folder in timm's local-dir format: config.json and model.safetensors."),
        Bad("eval knn teacher --spec spec.yaml --backbone convnext", "--backbone convnext, but the spec says the family of 'teacher'", "The option is for models that the spec does not name.", "Leave --backbone out."),
        Bad("run runs/mine", "'runs/mine' is a run's folder", "A run's folder holds its spec.", "Its spec: leapcore run runs/mine/spec.yaml", run()),
        Bad("report runs", "folder 'runs' holds neither a bench (matrix.json) nor a run", "A report is of one run, or of a benchmark.", "Of several runs: leapcore compare runs/*", run()),
        Bad("compare runs", "folder 'runs' holds no run", "The folder of the runs was named.", "Name two runs or more, such as runs/*.", run()),
        Bad("backbones sequencer2d_s", "leapcore cannot use sequencer2d_s: the cost of aten::lstm", "leapcore counts every operation, and does not know how to count this one.", "See docs/backbones.md."),
        Bad("report nowhere", "'nowhere' is no folder", "There is no such folder, or it is a file.", "Name the folder of a bench or of a run."),
        Bad("bench spec.yaml", "spec.yaml is the spec of a single run", "A benchmark's spec has teachers, students and methods.", "Run it with: leapcore run spec.yaml"),
        Bad("bench bench.yaml --list", "baseline: 'fixd' is none of the methods", "A name that the matrix does not have.", "The keys and their meaning: docs/bench.md", bench("baseline: fixed", "baseline: fixd")),
        Bad("bench bench.yaml --list", "seed 0 comes twice", "Two cells would have the same name.", "The keys and their meaning: docs/bench.md", bench("[0, 1]", "[0, 0]")),
        Bad("bench bench.yaml --list --only 'vit.*.s7'", "--only vit.*.s7: no cell has such a name", "A slip in the pattern, or a cell that the matrix does not have.", "Names are like ", bench()),
        Bad("bench bench.yaml --list --part 2/2", "--part 2/2: not of the form I/N", "Parts are counted from 0.", "Write 0/2 and 1/2 to share among two machines.", bench()),
    ],
    "Plugins": [
        Bad("plugins check nothing", "there is no plugin 'nothing'", "Not installed in this environment, or of another name.", "Known: "),
        Bad("plugins new 9lives", "'9lives' cannot be a package's name", "The name becomes a Python package's.", "Use small letters, digits and hyphens: my-backbone."),
        Bad("plugins new vit", "there is a backbone 'vit' already", "Specs could not tell the two apart.", "Give yours another name."),
        Bad("run spec.yaml --set student.backbone=theirs", "unknown backbone 'theirs'", "A plugin that cannot be imported registers nothing; the others go on working.", "Plugin 'theirs' (an unknown distribution) is broken: ModuleNotFoundError: No module named 'no_such_module'", plugin("import no_such_module")),
        Bad("plugins check theirs", "it has a hook 'leapcore_register_backbone', which leapcore does not know", "A slip in a hook's name.", "Did you mean 'leapcore_register_backbones'?", plugin(HOOK.format("leapcore_register_backbone", "pass"))),
        Bad("run spec.yaml --set student.backbone=theirs", "its factory returns a NoneType", "A plugin's factory must return a provider.", "Return a LayerFeatureProvider.", plugin(HOOK.format("leapcore_register_backbones", "registry.register('theirs', lambda *, model, weights, image_size, options: None)"))),
    ],
    "Several processes": [
        Bad("run spec.yaml --set train.batch_size=7 --set engine.accumulate=2", "7 images cannot be shared out evenly among 1 processes with engine.accumulate: 2", "Each part of a batch must have as many images.", "Use a multiple of 2, such as 6 or 8."),
        Bad("run spec.yaml --processes 3", "64 images cannot be shared out evenly among 3 processes", "Each process takes an equal share of every batch.", "Use a multiple of 3, such as 63 or 66."),
        Bad("run spec.yaml --processes 2", "--processes 2, but a launcher started 3", "torchrun, srun or DeepSpeed's launcher has started the processes already.", "Leave --processes out.", launched_by_another),
    ],
}  # fmt: skip
