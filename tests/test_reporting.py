"""The table of a run's history."""

import pytest

from photonic_ffzero.data.readers import DataError
from photonic_ffzero.model import EpochRecord
from photonic_ffzero.runs.directory import RunDirectory


class TestHistoryTable:
    HEAD = "mesh,epoch,loss,train_accuracy,validation_accuracy,forward_passes,phase_writes"

    def test_it_is_read_as_it_was_written(self, tmp_path):
        table = f"{self.HEAD},epsilon,seconds\n1-2,1,0.5,0.25,,640,5,0.01,1.5\n"
        (tmp_path / "history.csv").write_text(table)
        expected = EpochRecord("1-2", 1, 0.5, 0.25, None, 640, 5, 0.01, 1.5)
        assert RunDirectory(tmp_path).read_history() == [expected]

    @pytest.mark.parametrize("row", ["1,one,0.5,0.25,,640,5,0.01,1.5", "1,1", "1" + 9 * ",1"])
    def test_a_damaged_one_is_named(self, tmp_path, row):
        (tmp_path / "history.csv").write_text(f"{self.HEAD},epsilon,seconds\n{row}\n")
        with pytest.raises(DataError, match=r"history\.csv: is no table"):
            RunDirectory(tmp_path).read_history()
