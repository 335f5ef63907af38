"""What an observer writes for TensorBoard."""

import numpy as np
import pytest

from meshes._tensorflow import tf
from photonic_ffzero import fit
from photonic_ffzero.cli.train import main
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.runs import TensorBoard
from photonic_ffzero.training.trainer import Trainer


def written(folder):
    """Name -> values by step, of all event files of a folder."""
    numbers = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name in ("scalars", "")
                steps = numbers.setdefault(value.tag, {})
                steps[event.step] = float(tf.make_ndarray(value.tensor))
    return numbers


def test_numbers_are_those_of_the_history(tmp_path):
    x, y = np.random.default_rng(0).random((40, 4), np.float32), np.arange(40) % 2
    model = fit(x, y, validation=10, epochs=2, observers=(TensorBoard(tmp_path / "logs"),))
    numbers = written(tmp_path / "logs")
    for record in model.history:
        for name in ("loss", "train_accuracy", "validation_accuracy", "forward_passes", "epsilon"):
            found = numbers[f"mesh {record.mesh}/{name}"][record.epoch]
            assert found == pytest.approx(getattr(record, name), rel=1e-6)
    assert not any("twin" in name for name in numbers)


FLAGS = ["--dataset", "digits", "--limit", "60", "--epochs", "2", "--meshes", "1", "--quiet"]


def test_each_seed_has_a_folder(tmp_path):
    flags = [*FLAGS, "--directions", "1", "--seeds", "2", "--tensorboard"]
    assert main([*flags, "--output", str(tmp_path / "run")]) == 0
    for seed in (0, 1):
        numbers = written(tmp_path / "run" / f"seed-{seed}" / "tensorboard")
        assert list(numbers["mesh 1/loss"]) == [1, 2]


def test_a_resume_goes_on_in_the_folder(tmp_path, monkeypatch):
    folder = str(tmp_path / "run")
    flags = [*FLAGS, "--directions", "1", "--tensorboard", "--output", folder]
    record = Trainer._record

    def stopping(self, training, epoch, *rest):
        record(self, training, epoch, *rest)
        if epoch == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_record", stopping)
        assert main(flags) == 130
    assert main(["--resume", folder, "--quiet", "--tensorboard"]) == 0
    assert set(written(tmp_path / "run" / "tensorboard")["mesh 1/loss"]) == {1, 2}


def test_a_folder_that_cannot_be_is_an_error_of_files(tmp_path):
    (tmp_path / "tensorboard").touch()
    with pytest.raises(OSError, match=str(tmp_path / "tensorboard")):
        TensorBoard(tmp_path / "tensorboard").on_epoch(
            EpochRecord("1", 1, 0.5, 0.5, None, 1, 1, None, 1.0)
        )
