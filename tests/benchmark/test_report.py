"""The page: complete, self-contained, and right about what it is given."""

import base64
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from polyclinic.benchmark.report import write_report
from polyclinic.errors import ConfigError

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Reads a page, and fails where an element is not closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def page(full_file, tmp_path_factory):
    written = write_report([full_file], tmp_path_factory.mktemp("page") / "to" / "report", published=True)
    return written, Page(written.read_text(encoding="utf-8"))


def test_the_page_needs_nothing_else(page):
    path, read = page
    addresses = [
        value for _, attrs in read.elements for name, value in attrs.items() if name in ("src", "href", "srcset")
    ]
    assert addresses
    assert [a for a in addresses if not a.startswith(("data:image/png;base64,", "#"))] == []
    assert {tag for tag, _ in read.elements} & {"script", "link", "iframe", "object", "embed"} == set()
    assert re.findall(r"@import|url\(", path.read_text(encoding="utf-8")) == []
    targets = {attrs["id"] for _, attrs in read.elements if "id" in attrs}
    assert {a[1:] for a in addresses if a.startswith("#")} <= targets


def test_every_method_status_and_reason_is_there(page):
    text = page[1].text
    for word in ("Pooled", "Local Cleveland", "Local Hungary", "FedAverage", "FedProx", "FedYogi", "Zeta & Co"):
        assert word in text
    for word in (
        "diverged",
        "failed",
        "the loss <is> not finite",
        "no space left",
        "fed_camelyon16",
        "protocol “flamby”",
    ):
        assert word in text
    assert "arXiv:2210.04620" in text
    assert "nan" not in text.lower().split()


def test_figures_have_texts_and_are_beside_the_page(page):
    path, read = page
    images = [attrs for tag, attrs in read.elements if tag == "img"]
    assert len(images) == 8  # bars, curves, bytes, heat map of two datasets
    assert all(len(image["alt"]) > 40 for image in images)
    beside = {file.read_bytes() for file in path.parent.glob("*.png")}
    assert {base64.b64decode(image["src"].partition(",")[2]) for image in images} == beside
    with Image.open(path.parent / "fed_heart_disease-bars.png") as picture:
        assert picture.width == 1440


def test_published_values_only_on_request(page, cell, write, tmp_path):
    assert "0.748" in page[1].text  # published for FedAverage on Fed-Heart-Disease, pooled test
    mine = write(cell("Pooled", 1, {"pooled": 0.5}))
    without = Page(write_report([mine], tmp_path / "without").read_text(encoding="utf-8"))
    assert "ublished" not in without.text


def test_damaged_lines_are_told_on_the_page(cell, write, tmp_path):
    path = write(cell("Pooled", 1, {"pooled": 0.4}), cell("Pooled", 2, {"pooled": 0.6}))
    with path.open("ab") as file:
        file.write(b"flamby,fed_heart\xff\n")
    text = Page(write_report([path], tmp_path / "report").read_text(encoding="utf-8")).text
    assert "results.csv: 1 damaged lines are left out" in text
    assert "0.500 [−0.771, 1.771] (2)" in text


def test_baselines_alone_have_no_curves(cell, write, tmp_path):
    path = write_report([write(cell("Pooled", 1, {"pooled": 0.5}, dataset="my.module/x"))], tmp_path / "report")
    assert "There is no strategy in these files" in path.read_text(encoding="utf-8")
    assert sorted(file.name for file in path.parent.glob("*.png")) == [
        "my-module-x-bars.png",
        "my-module-x-heat-map.png",
    ]


def test_where_all_runs_failed_the_reasons_are_all_there_is(cell, write, tmp_path):
    path = write_report(
        [write(cell("FedProx", 1, status="failed", metric="", detail="no space left"))], tmp_path / "to"
    )
    text = Page(path.read_text(encoding="utf-8")).text
    assert "1 run (1 failed)" in text
    assert "there is nothing to draw" in text
    assert "no space left" in text
    assert list(path.parent.glob("*.png")) == []


def test_several_metrics_have_bars_each(cell, write, tmp_path):
    cells = [cell("Pooled", 1, {"pooled": 0.5}), cell("Pooled", 2, {"pooled": 0.25}, metric="roc_auc")]
    path = write_report([write(*cells)], tmp_path)
    assert {file.name for file in tmp_path.glob("*bars*")} == {
        "fed_heart_disease-bars.png",
        "fed_heart_disease-bars-roc_auc.png",
    }
    assert "ROC AUC of all methods" in path.read_text(encoding="utf-8")


def test_an_empty_file_is_an_error_and_nothing_is_written(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ConfigError, match="no complete result"):
        write_report([tmp_path / "empty.csv"], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_folder_that_is_a_file(full, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be written to .*results\.csv"):
        write_report([full], full)
