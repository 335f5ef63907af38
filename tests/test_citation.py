"""CITATION.cff says what citation managers need, of this version."""

from configparser import ConfigParser
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
SETUP = ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")


def test_it_has_what_the_format_asks_for():
    assert CITATION["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= CITATION.keys()
    for work in (CITATION, *CITATION["references"]):
        assert work["title"]
        for author in work["authors"]:
            assert author.keys() in ({"name"}, {"family-names", "given-names"})
            assert all(isinstance(part, str) for part in author.values())


def test_it_is_of_this_version_and_license():
    assert str(CITATION["version"]) == SETUP["metadata"]["version"]
    assert CITATION["license"] == SETUP["metadata"]["license"]


def test_it_names_the_paper():
    [paper] = [work for work in CITATION["references"] if "2603.24790" in work.get("url", "")]
    assert paper["authors"][0]["family-names"] == "Guo"
    assert all(work["type"] == "article" for work in CITATION["references"])
