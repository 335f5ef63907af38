"""The report is one file that shows all results, whatever characters the texts contain."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import pytest

from photonic_ffzero.cli.report import main
from photonic_ffzero.config import configure
from photonic_ffzero.runs.grid import Cell, Grid, GridDirectory
from photonic_ffzero.runs.plan import plan_for
from photonic_ffzero.runs.report import grid_section, write_report
from photonic_ffzero.runs.summary import write_results
from photonic_ffzero.storage import write_json

NASTY = """<script>alert("x")</script> & 'quoted' </td></section> <img src=http://a.b/c.png>"""
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page taken apart: elements with their attributes, text, and whether tags match."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.rows, self.open = [], [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    @property
    def text(self):
        return "".join(self.texts)

    def tags(self):
        return [tag for tag, _ in self.elements]

    def attributes(self, *names):
        pairs = ((name, value) for _, given in self.elements for name, value in given.items())
        return [value for name, value in pairs if name in names]


PNG = base64.b64decode(  # a black pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def section(text=NASTY):
    table = {"caption": text, "header": [text], "rows": [[text]]}
    return {
        "title": text,
        "description": text,
        "command": text,
        "facts": {text: text},
        "failures": [text],
        "pictures": [{"base64": base64.b64encode(PNG).decode(), "text": text}],
        "tables": [table, table | {"folded": True}],
    }


def grid_directory(path="grid"):
    """Three seeds of two methods; the last run failed and the one before has not begun."""
    cells = tuple(
        Cell({"method": method}, plan_for("digits", configure(method=method, seed=seed)))
        for seed in (3, 4, 5)
        for method in ("ff-dd", "ff-ad")
    )
    grid = Grid(
        cells=cells,
        x="method",
        name="trial",
        title="A trial",
        description="It shows nothing.",
        command="python experiments/trial.py --preset small",
    )
    directory = GridDirectory.create(Path(path), grid)
    for cell, accuracy in zip(cells, (0.5, 0.9, 0.7, 0.8), strict=False):
        results = {"test_accuracy": accuracy, "train_seconds": 100 * accuracy}
        versions = {"versions": {"numpy": f"2.{cell.seed}", "python": "3.12"}}
        write_json(directory.prepare(cell) / "results.json", results | versions)
    directory.prepare(cells[5])
    directory.fail(cells[5], "no light <port 3>")
    write_results(directory)
    return directory


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class TestPage:
    def test_every_text_is_escaped_and_reads_as_it_was(self):
        write_report(Path("report.html"), [section(), section()], title=NASTY)
        page = Page("report.html")
        assert page.open == []
        # Two titles; in each section a heading, a link, a paragraph, a command, a fact (twice),
        # a failure, and two tables of a caption, a header and a cell.
        assert page.text.count(NASTY) == 2 + 2 * (2 + 1 + 1 + 2 + 1 + 2 * 3)
        assert page.attributes("alt") == [NASTY] * 2
        assert page.tags().count("section") == 2
        assert page.tags().count("td") == 4
        assert page.tags().count("details") == 2

    def test_it_needs_no_other_file_and_no_script(self):
        write_report(Path("report.html"), [section(), section()])
        page, raw = Page("report.html"), Path("report.html").read_text()
        assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags())
        assert page.attributes("href") == ["#s0", "#s1"]
        assert set(page.attributes("id")) == {"s0", "s1"}
        assert not [name for _, given in page.elements for name in given if name.startswith("on")]
        assert "url(" not in raw
        assert "@import" not in raw
        for source in page.attributes("src"):
            assert source.startswith("data:image/png;base64,")
            assert base64.b64decode(source.partition(",")[2]) == PNG

    def test_it_can_be_read_in_the_dark_and_in_any_language(self):
        write_report(Path("report.html"), [{"title": "ππ größer"}])
        raw = Path("report.html").read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in raw
        assert ("meta", {"charset": "utf-8"}) in Page("report.html").elements
        assert "ππ größer" in raw


class TestGridSection:
    def test_it_shows_the_figures_of_the_grid(self):
        directory = grid_directory()
        shown = grid_section(directory.path)
        assert (shown["title"], shown["description"]) == ("A trial", "It shows nothing.")
        assert shown["command"] == "python experiments/trial.py --preset small"
        (picture,) = shown["pictures"]
        assert base64.b64decode(picture["base64"]) == Path("grid/figure.png").read_bytes()
        means, runs = shown["tables"]
        # ff-dd: 50 and 70 of three; ff-ad: 90 and 80
        assert means["rows"] == [
            ["ff-dd", "60.00 +- 14.14", "2/3", "60.0"],
            ["ff-ad", "85.00 +- 7.07", "2/3 failed", "85.0"],
        ]
        assert len(runs["rows"]) == 6
        assert runs["rows"][0] == ["ff-dd", "3", "done", "50.00", "50.0"]
        assert runs["rows"][4] == ["ff-dd", "5", "waiting", "-", "-"]
        assert runs["rows"][5] == ["ff-ad", "5", "failed", "-", "-"]
        for table in (means, runs):
            assert {len(row) for row in table["rows"]} == {len(table["header"])}

    def test_it_shows_seeds_time_versions_and_failures(self):
        shown = grid_section(grid_directory().path)
        assert shown["facts"] == {
            "Preset": "small",
            "Runs": "4 of 6 done",
            "Seeds": "3, 4, 5",
            "Training time": "290 s, all runs added up",
            "Versions": "numpy 2.3 and 2.4, python 3.12",
        }
        log = Path("grid/cells/method-ff-ad_seed-5/log.txt")
        assert shown["failures"] == [f"ff-ad, seed 5: no light <port 3> ({log})"]

    def test_it_shows_the_tables_and_figures_that_the_experiment_adds(self):
        path = grid_directory().path
        (path / "slope_error.csv").write_text('noise,error\r\n"0,1",<b>\r\n', newline="")
        (path / "error.png").write_bytes(PNG)
        shown = grid_section(path)
        _, table, _ = shown["tables"]
        assert (table["caption"], table["folded"]) == ("Slope error", True)
        assert (table["header"], table["rows"]) == (["noise", "error"], [["0,1", "<b>"]])
        assert [picture["text"] for picture in shown["pictures"]][1] == "A trial: error"

    def test_a_grid_that_has_not_begun_has_a_section(self):
        cell = Cell({"method": "ff-dd"}, plan_for("digits", configure()))
        GridDirectory.create(Path("grid"), Grid(cells=(cell,), x="method", name="trial"))
        shown = grid_section(Path("grid"))
        assert (shown["title"], shown["pictures"]) == ("trial", [])
        assert shown["facts"]["Runs"] == "0 of 1 done"
        assert [table["rows"] for table in shown["tables"]] == [
            [["ff-dd", "-", "0/1", "-"]],
            [["ff-dd", "0", "waiting", "-", "-"]],
        ]


class TestCommandLine:
    def test_a_table_that_cannot_be_read_is_named_and_left_out(self, capsys):
        path = grid_directory().path
        for name, text in (("ragged.csv", "a,b\n1,2,3\n1,2,3,4\n"), ("fine.csv", "a\n1\n")):
            (path / name).write_text(text)
        assert main(["grid"]) == 0
        page = Page("report.html")
        assert "ragged.csv" in page.text
        assert "Fine" in page.text

    def test_only_a_page_is_replaced(self, capsys):
        path = grid_directory().path
        before = (path / "results.csv").read_bytes()
        with pytest.raises(SystemExit) as stop:
            main(["grid", "--output", "grid/results.csv"])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "--output: must be a path that ends in .html, got 'grid/results.csv'" in error
        assert (path / "results.csv").read_bytes() == before
        for _ in range(2):
            assert main(["grid", "--output", "new/page.html"]) == 0

    def test_a_page_that_cannot_be_written_is_no_bad_input(self, capsys, monkeypatch):
        def full(*arguments):
            raise OSError(28, "No space left on device", "report.html")

        grid_directory()
        monkeypatch.setattr("photonic_ffzero.cli.report.write_report", full)
        with pytest.raises(SystemExit) as stop:
            main(["grid"])
        assert stop.value.code == 1
        assert "report: [Errno 28] No space left" in capsys.readouterr().err

    def test_several_grids_go_into_one_page(self, capsys):
        for name in ("one", "two"):
            grid_directory(name)
        assert main(["one", "two", "--output", "report.html", "--title", "Both"]) == 0
        page = Page("report.html")
        assert page.tags().count("section") == 2
        assert page.tags().count("img") == 2
        assert page.text.count("no light <port 3>") == 2
        assert "python experiments/trial.py --preset small" in page.text
        assert capsys.readouterr().out == "report in report.html\n"

    def test_a_folder_without_a_grid_is_named_and_nothing_written(self, capsys):
        with pytest.raises(SystemExit) as stop:
            main(["nowhere"])
        errors = capsys.readouterr().err
        assert stop.value.code == 2
        assert "nowhere" in errors
        assert "nowhere" in errors
        assert not Path("report.html").exists()
