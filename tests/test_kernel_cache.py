"""A cache of kernels that is damaged, full or not safe costs a compilation, nothing else."""

import os
import pickle
import warnings

import numba
import pytest

from meshes.engines import cache


def double(x):
    return 2 * x


class Foreign:
    """Unpickling it shows."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where this test's kernels are kept."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "_warned", False)
    return tmp_path


def call():
    """Compile as a new process does; return how often code was found on the disk."""
    compiled = cache.kernel(double)
    assert compiled(21) == 42
    return sum(compiled.stats.cache_hits.values())


def call_with_one_warning(match):
    with pytest.warns(RuntimeWarning, match=match) as caught:
        assert call() == 0
    assert len(caught) == 1


def files(folder, ending):
    (file,) = folder.rglob(f"*.{ending}")
    return file


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "one bit": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "a longer one": lambda content: content + b"x",
    "foreign": lambda content: pickle.dumps(Foreign()),
    "zeros": lambda content: bytes(len(content)),
}


def test_code_is_found_again(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [call(), call()] == [0, 1]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_costs_one_compilation(damage, ending, folder):
    call()
    file = files(folder, ending)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    call_with_one_warning("damaged")
    assert call() == 1  # and is mended


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_lost_file_costs_one_compilation(ending, folder):
    call()
    files(folder, ending).unlink()
    assert [call(), call()] == [0, 1]


@pytest.mark.parametrize("name", ["Job", "AttributeError", "EOFError"])
def test_any_error_while_loading(name, folder, monkeypatch):
    call()

    def fail(*_):
        raise AttributeError(f"Can't get attribute {name}")

    monkeypatch.setattr(cache.pickle, "loads", fail)
    call_with_one_warning(name)


def test_a_full_disk(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._CheckedFiles, "_open_for_write", fail)
    call_with_one_warning("No space left")


def test_nowhere_to_write(folder, monkeypatch):
    def fail(*_):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(cache._KernelCache, "__init__", fail)
    call_with_one_warning("no locator")


def test_a_folder_where_others_write_is_not_read(folder):
    call()
    place = files(folder, "nbi").parent
    place.chmod(0o777)
    call_with_one_warning("others may write")
    place.chmod(0o700)
    assert call() == 1


def test_a_folder_of_another_user_is_not_read(folder, monkeypatch):
    call()
    monkeypatch.setattr(cache.os, "stat", lambda path, s=os.stat: fake_owner(s(path), path, folder))
    call_with_one_warning("another user")


def fake_owner(status, path, folder):
    owner = os.getuid() + 1 if str(path).startswith(str(folder)) else os.getuid()
    return os.stat_result((*status[:4], owner, *status[5:10]))
