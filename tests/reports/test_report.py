"""The report is one file that says everything, whatever strings and numbers it is given."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hiergal.reports.page import Finding, package_versions, write_report
from hiergal.runtime.formatting import format_number, format_share

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects the elements and the text of a page, and that every element is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def figure(colour="black"):
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(1, 1))
    drawn.subplots().plot([0, 1], color=colour)
    return drawn


def write(folder, **changes):
    content = {
        "title": "Quickstart <1> & more",
        "summary": "A model learnt from 2,000 galaxies.",
        "metrics": {"flux": {"coverage_68": 0.661, "n": 400}, "chi_square": [1.0, float("nan")]},
        "findings": [
            Finding("68 % intervals of total flux hold the truth for", "66.1 ± 2.4 %", "60 to 76 %", True),
            Finding("Brightest quarter: median reduced χ²", "1.31", "under 1.2", False),
            Finding("Galaxies", "400"),
        ],
        "figures": {"stamps": (figure(), 'Stamps, 0.5" & <b>'), "corner": (figure("red"), "Latents")},
        "tables": {"Real galaxies": [{"id": 7, "flux": 1.23456789}, {"id": 8, "comment": "<script>"}]},
        "made": {"seed": 1, "wall time": "4 min 10 s", **package_versions()},
        "recipe": 'name = "small"\n',
    }
    return write_report(folder, **{**content, **changes})


def test_page_says_everything_in_order(tmp_path):
    page = Page(write(tmp_path / "run").read_text(encoding="utf-8"))
    expected = [
        "Quickstart <1> & more",
        "1 of 2 numbers with a goal do not meet it:",
        "NOT MET: Brightest quarter: median reduced χ² 1.31 (goal: under 1.2).",
        "under 1.2not met",
        "66.1 ± 2.4 %",
        "60 to 76 %",
        "1.235",
        "<script>",
        "Latents",
    ]
    expected += ["4 min 10 s", 'name = "small"', "flux.coverage_68", "0.661", "nan"]
    places = [page.text.find(text) for text in expected]
    assert -1 not in places and places == sorted(places)
    marks = [attrs["class"] for tag, attrs in page.elements if tag == "span"]
    assert marks == ["missed", "met"]


def test_page_needs_nothing_else(tmp_path):
    path = write(tmp_path)
    page = Page(path.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    links = [value for _, attrs in page.elements for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    targets = {attrs.get("id") for _, attrs in page.elements}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    assert [attrs["alt"] for tag, attrs in page.elements if tag == "img"] == ['Stamps, 0.5" & <b>', "Latents"]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements


def test_figures_lie_beside_the_page_and_are_the_same(tmp_path):
    source = write(tmp_path).read_text(encoding="utf-8")
    embedded = re.findall(r"base64,([^\"]+)", source)
    names = ["stamps", "corner"]
    assert [base64.b64decode(e) for e in embedded] == [
        (tmp_path / f"figures/{n}.png").read_bytes() for n in names
    ]
    assert sorted(p.name for p in (tmp_path / "figures").iterdir()) == ["corner.png", "stamps.png"]


def test_same_content_gives_the_same_page(tmp_path):
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_little_is_enough(tmp_path):
    page = write_report(tmp_path, title="T", figures={}, metrics={})
    assert "numbers that matter" not in Page(page.read_text()).text


def test_failure_leaves_the_old_page(tmp_path, monkeypatch):
    before = write(tmp_path).read_bytes()
    broken = figure()
    monkeypatch.setattr(broken, "savefig", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, figures={"stamps": (figure(), ""), "corner": (broken, "")}, overwrite=True)
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.rglob("*hiergal-new"))


def test_one_report_is_not_replaced_by_another_unasked(tmp_path):
    before = write(tmp_path).read_bytes()
    with pytest.raises(FileExistsError, match="got one of another run; .*--overwrite"):
        write(tmp_path, title="other")
    assert (tmp_path / "report.html").read_bytes() == before
    assert write(tmp_path, title="other", overwrite=True).read_bytes() != before


@pytest.mark.parametrize("name", ["report.html", "figures/stamps.png"])
def test_files_of_others_are_never_replaced(tmp_path, name):
    (tmp_path / "figures").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"without {name}, .*nothing is touched"):
        write(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == "mine"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(name).name]


@pytest.mark.parametrize("name", ["../up", "a b", "", "a.png"])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="letters, digits"):
        write(tmp_path, figures={name: (figure(), "")})


def test_numbers_are_written_as_people_read_them():
    values = [np.float32(1.5), 123456.7, -0.00012345, np.int64(3), False, "text", np.array([1.0, 2.5])]
    assert [format_number(v) for v in values] == ["1.5", "123457", "-0.0001234", "3", "no", "text", "1, 2.5"]


def test_shares_have_binomial_errors():
    assert format_share(0, 10) == "0.0 ± 0.0 %"
    for inside, total in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match="out of"):
            format_share(inside, total)
