"""Links lead somewhere, names of files are real, and versions agree."""

import re
from pathlib import Path

import pytest

import polyclinic

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "polyclinic"
AT_THE_TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*AT_THE_TOP, *sorted(DOCS.rglob("*.md")), *sorted(PACKAGE.rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(page):
    return page.read_text(encoding="utf-8")


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(page):
    """The names that a link can point to, as GitHub makes them of headings."""
    heads = re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for link in LINK.findall(without_code(read(page))):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}; there are {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_place_of_somebodys_machine(page):
    assert re.findall(r"(?<![\w.])/(?:home|root|Users|tmp|work|mnt|opt)/\S*|[A-Z]:\\\S*", read(page)) == []


def test_the_index_names_every_page():
    linked = {
        (DOCS / link.partition("#")[0]).resolve() for link in LINK.findall(read(DOCS / "index.md")) if "://" not in link
    }
    pages = {*DOCS.glob("*.md"), *DOCS.glob("errors/*.md"), *DOCS.glob("datasets/*.md")} - {DOCS / "index.md"}
    missing = sorted(page.name for page in pages if page not in linked)
    assert missing == []


def test_the_changelog_begins_with_the_version_of_the_code():
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", read(ROOT / "CHANGELOG.md"), flags=re.MULTILINE)
    assert versions[0] == polyclinic.__version__
    assert f"Version {polyclinic.__version__}," in read(ROOT / "README.md")


def test_the_first_screen_of_the_readme():
    """One sentence, the two commands, about fifteen lines of a program, and what it is not for."""
    first_screen = re.compile(
        r"# Polyclinic\n\n(?P<sentence>[^\n]+)\n\n```sh\n(?P<commands>.*?)```\n\n```python\n(?P<program>.*?)```\n\n"
        r"\*\*Not for this yet:\*\* [^\n]+\n\n",
        flags=re.DOTALL,
    ).match(read(ROOT / "README.md"))
    assert first_screen["sentence"].count(".") == 1
    assert [line.split("#")[0].strip() for line in first_screen["commands"].splitlines()] == ["make demo", "make test"]
    assert len([line for line in first_screen["program"].splitlines() if line.strip()]) <= 18


def test_the_architecture_names_files_that_exist():
    named = set(re.findall(r"`([\w/]+\.py)`", read(DOCS / "architecture.md")))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (PACKAGE / name).is_file() and not (ROOT / name).is_file()] == []


def test_the_architecture_has_the_layers_of_the_test():
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("layers", ROOT / "tests" / "test_layers.py")
    layers = module_from_spec(spec)
    spec.loader.exec_module(layers)
    block = re.search(r"^```text layers\n(.*?)^```$", read(DOCS / "architecture.md"), flags=re.MULTILINE | re.DOTALL)[1]
    drawn = [set(re.findall(r"\w+", line)) for line in block.splitlines() if line.strip()]
    assert drawn == layers.LAYERS


def test_decisions_are_numbered_without_gaps_and_say_why():
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        heads = re.findall(r"^## (.+)$", read(page), flags=re.MULTILINE)
        assert heads == ["Context", "Decision", "Why"], page.name
        assert page.name in read(DOCS / "decisions" / "README.md"), page.name


def test_pictures_are_small():
    assert [path.name for path in (DOCS / "images").iterdir() if path.stat().st_size > 100_000] == []
