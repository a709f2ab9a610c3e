"""Files are written whole."""

import threading

import pytest

from leapcore.files import remove_partial, write_whole


def test_many_writers_of_one_file_are_in_nobodys_way(tmp_path):
    path, failed = tmp_path / "matrix.json", []

    def write(text):
        try:
            for _ in range(100):
                write_whole(path, text)
        except OSError as error:
            failed.append(error)

    texts = ["a" * 10_000, "b" * 10_000]
    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "whole", synced=True)
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path):
    others = [tmp_path / name for name in ("a.json", "b.json", ".b.json.0123.tmp")]
    for path in (*others, tmp_path / ".a.json.0123.tmp"):
        path.touch()
    remove_partial(tmp_path / "a.json")
    assert sorted(tmp_path.iterdir()) == sorted(others)
