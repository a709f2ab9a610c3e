import pickle
import subprocess
import sys

import pytest
import torch
from conftest import write_shards
from PIL import Image

from leapcore.data.batches import TrainingBatches, _Views, evaluation_batches
from leapcore.data.sources import digits, folder, from_timm
from leapcore.data.views import evaluation_view, training_view
from leapcore.distributed.place import Place
from leapcore.distributed.ranks import Ranks
from leapcore.errors import DataError
from leapcore.spec import AugmentSpec, DataSpec


def _data(**changes):
    return DataSpec(**{"source": "digits", "image_size": 16, "workers": 0, **changes})


@pytest.fixture
def image_folder(tmp_path):
    """train/ and val/ with classes a and b, three images each."""
    for split in ("train", "val"):
        for label, shade in (("a", 40), ("b", 200)):
            place = tmp_path / split / label
            place.mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", (20, 24), (shade, shade, index)).save(place / f"{index}.png")
    return tmp_path


def _folder_data(root, **changes):
    return _data(source="folder", train=str(root / "train"), val=str(root / "val"), **changes)


def _all(batches):
    return [batch.pixels for batch in batches]


def test_digits_are_split_the_same_way_every_time():
    splits = digits(_data(), "", 0)
    assert (len(splits.train), len(splits.val)) == (1437, 360)
    image, label = splits.val[0]
    assert (image.mode, image.size, label) == ("RGB", (8, 8), digits(_data(), "", 0).val[0][1])
    assert image.tobytes() == digits(_data(), "", 0).val[0][0].tobytes()


def test_views_are_bytes_of_the_right_size():
    image = Image.new("L", (40, 30), 255)
    for view in (training_view(16, AugmentSpec()), evaluation_view(16, 0.875)):
        pixels = view(image)
        assert pixels.dtype == torch.uint8
        assert pixels.shape == (3, 16, 16)
    assert evaluation_view(16, 1.0)(image)[0].eq(255).all()


def test_a_view_depends_on_seed_epoch_and_image_not_on_workers_or_other_draws():
    train = digits(_data(), "", 0).train
    first = _all(TrainingBatches(train, _data(), 479, seed=3).epoch(1))
    torch.rand(17)
    state = torch.get_rng_state()
    again = _all(TrainingBatches(train, _data(), 479, seed=3).epoch(1))
    with_workers = _all(TrainingBatches(train, _data(workers=2), 479, seed=3).epoch(1))
    assert torch.equal(torch.get_rng_state()[:100], state[:100]), "loading must not use up random numbers"
    for a, b, c in zip(first, again, with_workers, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_epochs_and_seeds_differ_and_every_image_comes_once():
    train = digits(_data(), "", 0).train
    batches = TrainingBatches(train, _data(), 479, seed=3)
    assert batches.steps_per_epoch == 3
    labels = torch.cat([batch.labels for batch in batches.epoch(0)])
    assert sorted(labels.tolist()) == sorted(int(label) for label in train.labels)
    epochs = [next(iter(batches.epoch(number))).pixels for number in (0, 1)]
    other = next(iter(TrainingBatches(train, _data(), 479, seed=4).epoch(0))).pixels
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], other)


def test_evaluation_keeps_the_order_and_the_last_incomplete_batch():
    val = digits(_data(), "", 0).val
    sizes = [len(labels) for _, labels in evaluation_batches(val, _data(), 100)]
    assert sizes == [100, 100, 100, 60]


def test_folders_of_images(image_folder):
    splits = folder(_folder_data(image_folder), "", 0)
    assert (len(splits.train), len(splits.val)) == (6, 6)
    assert sorted({label for _, label in splits.val}) == [0, 1]


def test_a_class_missing_from_the_validation_folder_does_not_shift_labels(image_folder):
    for file in (image_folder / "val" / "a").iterdir():
        file.unlink()
    (image_folder / "val" / "a").rmdir()
    splits = folder(_folder_data(image_folder), "", 0)
    assert {label for _, label in splits.val} == {1}


def test_a_missing_folder_is_named(image_folder):
    data = _folder_data(image_folder / "nowhere")
    with pytest.raises(DataError, match=r"data.train: folder '.*nowhere/train' does not exist"):
        folder(data, "", 0)


def test_a_folder_without_images_is_named(image_folder):
    for file in (image_folder / "train").rglob("*.png"):
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(DataError, match=r"data.train: folder .* holds no images"):
        folder(_folder_data(image_folder), "", 0)


def test_stray_files_and_hidden_folders_are_no_classes(image_folder):
    (image_folder / "val" / "README.txt").write_text("hello")
    (image_folder / "train" / ".ipynb_checkpoints").mkdir()
    assert len(folder(_folder_data(image_folder), "", 0).train) == 6


def test_images_below_a_class_folder_are_refused(image_folder):
    (image_folder / "train" / "a").rename(image_folder / "moved")
    (image_folder / "train" / "a").mkdir()
    (image_folder / "moved").rename(image_folder / "train" / "a" / "images")
    with pytest.raises(
        DataError, match=r"image 'a/images/0.png' lies deeper .*\nArrange the images as .*CLASS/IMAGE"
    ):
        folder(_folder_data(image_folder), "", 0)


def test_an_empty_class_folder_is_named(image_folder):
    (image_folder / "train" / "c").mkdir()
    with pytest.raises(DataError, match=r"data.train: no images in class folder 'c'"):
        folder(_folder_data(image_folder), "", 0)


def test_a_class_unknown_to_training_is_named(image_folder):
    (image_folder / "val" / "c").mkdir()
    Image.new("RGB", (8, 8)).save(image_folder / "val" / "c" / "0.png")
    with pytest.raises(DataError, match=r"classes that data.train has not: c"):
        folder(_folder_data(image_folder), "", 0)


def test_a_batch_larger_than_the_data_is_refused():
    train = digits(_data(), "", 0).train
    with pytest.raises(
        DataError, match=r"batch_size is 2000, but there are only 1437 training images.*nothing was run"
    ):
        TrainingBatches(train, _data(), 2000, seed=0)


@pytest.mark.parametrize(("workers", "shards"), [(0, 1), (2, 2), (2, 1)])
def test_a_stream_gives_whole_batches_whatever_the_workers(tmp_path, workers, shards):
    write_shards(tmp_path, shards)
    data = _data(source="wds/toy", root=str(tmp_path), train="train", val="validation", workers=workers)
    batches = TrainingBatches(from_timm(data, "toy", 0).train, data, 3, seed=0)
    assert batches.steps_per_epoch == 2
    first, second = _all(batches.epoch(0)), _all(batches.epoch(1))
    assert [pixels.shape for pixels in first] == [(3, 3, 16, 16)] * 2
    torch.rand(5)
    again = _all(TrainingBatches(from_timm(data, "toy", 0).train, data, 3, seed=0).epoch(0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize(
    ("workers", "shards", "size"),
    [(0, 1, 2), (2, 2, 2), (2, 1, 2), pytest.param(4, 4, 4, id="remainders as large as shares")],
)
def test_two_processes_share_a_stream_without_duplicates_or_drops(tmp_path, workers, shards, size):
    write_shards(tmp_path, shards)
    source = {"source": "wds/toy", "root": str(tmp_path), "val": "validation", "workers": workers}
    data = _data(**source, augment={"color": 0, "gray": 0})

    def epoch(ranks, done=0):
        return _all(TrainingBatches(from_timm(data, "toy", 0).train, data, size, 0, ranks).epoch(3, done))

    whole, shares = epoch(Ranks()), [epoch(Ranks(Place(rank, rank, 2))) for rank in (0, 1)]
    assert len(whole) == 8 // size
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat(parts), batch)
    # Each image has a red of its own; the crops keep it within a few levels.
    reds = sorted(round(image[0].float().mean().item() / 30) for batch in whole for image in batch)
    assert reds == list(range(8))
    (later,) = epoch(Ranks(), done=len(whole) - 1)
    assert torch.equal(later, whole[-1])


def test_webdataset_shards_are_read_through_timm(tmp_path):
    write_shards(tmp_path)
    data = _data(source="wds/toy", root=str(tmp_path), train="train", val="validation")
    splits = from_timm(data, "toy", 0)
    batches = TrainingBatches(splits.train, data, 4, seed=0)
    assert batches.steps_per_epoch == 2
    batch = next(iter(batches.epoch(0)))
    assert batch.pixels.shape == (4, 3, 16, 16)
    assert set(batch.labels.tolist()) <= {0, 1}
    assert sum(len(labels) for _, labels in evaluation_batches(splits.val, data, 4)) == 8


@pytest.mark.parametrize("reader", ["hfds", "hfids"])
def test_hugging_face_data_sets_are_read_through_timm(image_folder, reader, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sizes = {"train_images": 6, "val_images": 6} if reader == "hfids" else {}
    data = _data(source=f"{reader}/{image_folder}", val="validation", image_key="image", **sizes)
    splits = from_timm(data, str(image_folder), 0)
    batches = TrainingBatches(splits.train, data, 4, seed=0)
    (batch,) = batches.epoch(0)
    assert batch.pixels.shape == (4, 3, 16, 16)
    assert set(batch.labels.tolist()) <= {0, 1}


@pytest.mark.parametrize("source", ["torch/nonesuch", "hfds/nonesuch/nonesuch"])
def test_a_source_that_timm_cannot_open_passes_on_why(source, tmp_path):
    with pytest.raises(DataError, match=f"data.source '{source}' cannot be opened for split 'train'"):
        from_timm(_data(source=source, root=str(tmp_path)), "", 0)


@pytest.mark.parametrize(
    ("source", "split", "message"),
    [
        (
            "torch/mnist",
            {"val": "validaton"},
            "data.val: 'validaton' is none of this data set's splits\nDid you mean",
        ),
        ("torch/MNIST", {"train": "trian"}, "data.train: 'trian' is none"),
        (
            "torch/mnist",
            {"train": "test"},
            "data.train: 'test' is none of this data set's splits\nKnown: train",
        ),
        ("torch/mnist", {"val": "train"}, "data.val: 'train' is none"),
    ],
)
def test_a_misspelt_split_of_a_torchvision_set_is_not_taken_for_the_test_split(
    tmp_path, source, split, message
):
    with pytest.raises(DataError) as caught:
        from_timm(_data(source=source, root=str(tmp_path), **split), "mnist", 0)
    assert message in str(caught.value)


def test_images_can_be_sent_to_a_worker_that_starts_from_nothing(image_folder, tmp_path):
    """As on macOS, or in a run that itself is a spawned process."""
    images = _Views(folder(_folder_data(image_folder), "", 0).train, training_view(16, AugmentSpec()))
    (tmp_path / "images.pkl").write_bytes(pickle.dumps(images))
    code = "import pickle, sys; print(len(pickle.load(open(sys.argv[1], 'rb')).images))"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "images.pkl"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{len(images.images)}\n"
