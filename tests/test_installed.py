"""The installed command: an overview that teaches, one name for all, completion, lines to paste."""

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from photonic_ffzero import __main__ as installed
from photonic_ffzero import command
from photonic_ffzero.__main__ import COMMANDS, GROUPS, main
from photonic_ffzero.cli import completion, experiment, train
from photonic_ffzero.cli.arguments import check_resumable
from photonic_ffzero.runs.claim import Claim
from photonic_ffzero.runs.names import find_run, newest_first

ROOT = Path(__file__).parents[1]


@pytest.fixture
def as_command(monkeypatch, tmp_path):
    """As if the process were the installed command, which is on the path."""
    script = tmp_path / "bin" / "photonic-ffzero"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.setattr(command, "_start", [sys.executable, str(script)])
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    return script


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_without_a_command_it_teaches(words, capsys):
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    for name, entry in COMMANDS.items():
        assert f"  {name} " in out
        assert entry.help in out
    assert all(f"\n{heading}:\n" in out for heading in GROUPS)


def test_the_overview_needs_no_tensorflow():
    code = (
        "import sys, photonic_ffzero.__main__ as m; m.main([]); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("trian", "'trian', did you mean train?"),
        ("TRAIN", "did you mean train?"),
        ("classify", "did you mean predict?"),
        ("--lr", "got '--lr'"),
        ("\x1b[2J", r"'\x1b[2J'"),
    ],
)
def test_a_slip_is_answered_in_one_line(word, told, capsys):
    assert main([word]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_itself_as_it_was_called(name, as_command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: photonic-ffzero {name} ")
    long = [line for line in out.splitlines() if len(line) > 80]
    assert all(re.match(r" +\[--", line) for line in long)  # a flag's names in the usage
    assert ".py " not in out.split("examples:")[-1]
    with pytest.raises(SystemExit) as stop:
        main([name, "--no-such-flag"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"photonic-ffzero {name}: error: ")


def test_it_trains(as_command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    quick = ["--dataset", "digits", "--size", "4", "--limit", "120", "--epochs", "0", "--quiet"]
    assert main(["train", *quick, "--output", "run"]) == 0
    assert Path("run/results.json").exists()
    assert capsys.readouterr().out.startswith("digits, ff-dd, seed 0: ")


def stopped(capsys, monkeypatch, *words):
    """The line to go on with of a run that stops at once."""

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Job, "run", lambda self, observers: stop(self))
    assert main([*words, "--quiet", "--dataset", "digits", "--output", "a run"]) == 130
    return capsys.readouterr().err.strip().partition("go on with: ")[2]


@pytest.mark.parametrize("name", ["train", "digital"])
def test_the_line_to_go_on_with_is_the_command_itself(
    name, as_command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    line = stopped(capsys, monkeypatch, name)
    assert line == f"photonic-ffzero {name} --resume 'a run'"


def test_off_the_path_it_is_named_by_its_place(as_command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    line = stopped(capsys, monkeypatch, "train")
    assert line == f"{as_command} train --resume 'a run'"
    monkeypatch.setattr(command, "_start", ["python3", "-m", "photonic_ffzero"])
    assert not Path("a run").exists()  # nothing was written
    line = stopped(capsys, monkeypatch, "train")
    assert line == "python3 -m photonic_ffzero train --resume 'a run'"


def test_a_grid_that_no_script_started_names_interpreter_and_script(monkeypatch, capsys):
    monkeypatch.setattr(command, "_start", [])

    arguments = experiment._parser("ablation", "", {"small": None}, ("digits",)).parse_args([])
    line = experiment.resume_command("ablation.py", Path("results/RUN"), arguments)
    assert line == f"{sys.executable} {ROOT}/experiments/ablation.py --resume results/RUN"


def test_a_preset_beside_resume_is_refused_although_it_is_the_default(tmp_path):
    (tmp_path / "grid.json").write_text('{"name": "ablation"}')
    parser = experiment._parser("ablation", "", {"small": None}, ("digits",))
    for flags, refused in ([], None), (["--jobs", "2"], None), (["--preset", "small"], "preset"):
        arguments = parser.parse_args(["--resume", str(tmp_path), *flags])
        assert arguments.preset == "small"
        with pytest.raises(ValueError, match=f"--{refused}") if refused else nullcontext():
            check_resumable(arguments, parser, experiment._RESUMABLE, "grid")


def test_lines_to_paste_hold_values_that_begin_with_a_dash(monkeypatch):
    monkeypatch.setattr(command, "_start", [])
    parser = experiment._parser("ablation", "", {"small": None}, ("digits",))
    arguments = parser.parse_args(["--data-dir=-data"])
    line = experiment.resume_command("ablation.py", Path("-dash"), arguments)
    assert line.endswith(" --resume=-dash --data-dir=-data")


def test_last_is_the_newest_that_the_command_can_go_on_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for age, (name, file) in enumerate(
        {"new": "grid.json", "run": "config.json", "older": "config.json", "empty": ""}.items()
    ):
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        if file:
            (folder / file).write_text('{"name": "ablation"}')
            os.utime(folder / file, (0, time.time() - age))
    with Claim(tmp_path / "results" / "older"):  # which changes the directory's own time
        assert find_run("last").name == "new"
    assert train.build_parser().parse_args(["--resume", "last"]).resume.name == "run"
    for name, expected in (("ablation", "new"), ("ports", None)):
        parser = experiment._parser(name, "", {"small": None}, ("digits",))
        if expected:
            assert parser.parse_args(["--resume", "last"]).resume.name == expected
        else:
            with pytest.raises(SystemExit):
                parser.parse_args(["--resume", "last"])
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "model.npz").touch()  # a run of this name
    assert find_run("last") == Path("last")


@pytest.mark.parametrize(
    ("name", "words", "dest", "meant"),
    [
        ("predict", ["last", "x.png"], "model", "run"),
        ("export", ["last", "--v-pi", "5", "--output", "x"], "run", "run"),
        ("train", ["--start-from", "last"], "start_from", "seeds"),
        ("train", ["--config", "last"], "config", "search/config.json"),
        ("train", ["--resume", "last"], "resume", "seeds"),
        ("compare", ["last", "run"], "runs", "seeds"),
        ("report", ["last"], "grids", "grid"),
        ("search", ["--resume", "last"], "resume", "search"),
    ],
)
def test_last_is_the_newest_that_a_command_can_take(
    name, words, dest, meant, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    everything = {  # the newest first
        "search": ["search.json", "config.json"],
        "figures/later-grid/x": ["note.txt"],
        "grid": ["grid.json"],
        "seeds": ["config.json", "seed-0/model.npz", "seed-0/config.json"],
        "run": ["config.json", "model.npz"],
    }
    for age, (folder, files) in enumerate(everything.items()):
        for file in files:
            path = Path("results", folder, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
            os.utime(path, (0, time.time() - age))
    parsed = getattr(COMMANDS[name].part("build_parser")().parse_args(words), dest)
    found = Path(parsed[0] if isinstance(parsed, list) else parsed)
    assert found.resolve() == (tmp_path / "results" / meant).resolve()
    last = next(iter(newest_first()))
    assert main(["runs"]) == 0
    told = capsys.readouterr()
    assert last.name == "search"
    assert "results/grid" in told.err


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_completion_of_a_shell_is_printed(shell, capsys):
    assert main(["completion", shell]) == 0
    out = capsys.readouterr().out
    for word in ("photonic-ffzero", *COMMANDS, "--learning-rate", "ff-dd"):
        assert word in out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_values_and_runs(tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "results" / "kerr1").mkdir(parents=True)
    lines = ["tr", "train --meth", "train --method b", "train --resume ke", "predict la"]
    script = capsys.readouterr().out + "\n".join(
        f"COMP_WORDS=(photonic-ffzero {line}); COMP_CWORD={len(line.split())}; COMPREPLY=()\n"
        f'_shtab_photonic_ffzero; echo "${{COMPREPLY[*]}}"'
        for line in lines
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["train", "--method", "bp-dd bp-ad", "kerr1", "last"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("name", ["$(touch${IFS}made)", "`touch made`", "né ✓ (1)", "a'b\"c", "-x"])
def test_completion_takes_names_of_runs_as_text(name, tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "results" / name).mkdir(parents=True)
    script = capsys.readouterr().out + (
        "COMP_WORDS=(photonic-ffzero predict ''); COMP_CWORD=2; COMPREPLY=()\n"
        "_shtab_photonic_ffzero; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert name in done.stdout.splitlines()
    assert not (tmp_path / "made").exists()


def test_the_entry_point_is_declared():
    assert "photonic-ffzero = photonic_ffzero.__main__:main" in (ROOT / "setup.cfg").read_text()
    assert callable(installed.main)
