"""The programs of the documentation run, in the order of their page, and print what the page says.

A fence ``python`` is run; ``python no-run`` is not, and says why in its first line. ``sh run`` holds commands of ours
that are run where they stand. ``text output`` is what the block before it prints: words as they are, numbers nearly,
… for anything.
"""

import os
import re
import subprocess
import sys
from math import isclose
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Pages whose programs need data, which their own tests make.
TESTED_THERE = {
    "add-your-data": "tests/node/dataset_kinds/test_docs_add_your_data.py",
    "set-up-each-dataset": "tests/datasets/test_docs.py",
}
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").glob("*.md")) if p.stem not in TESTED_THERE)]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(?:\.\d+)?")
MARK = "\x1e"


def blocks(page):
    return [(match["info"].strip(), match["text"]) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def is_run(info):
    return info in ("python", "sh run")


def with_programs():
    return [page for page in PAGES if any(is_run(info) for info, _ in blocks(page))]


def name_of(page):
    return page.stem


def as_program(page):
    parts = ["import polyclinic.cli as _command_line"]
    for info, text in blocks(page):
        if info == "python":
            parts.append(text)
        elif info == "sh run":
            for line in filter(None, text.splitlines()):
                program, *words = line.split()
                assert program == "polyclinic", line
                parts.append(f"_command_line.app({words!r}, standalone_mode=False)")
        if is_run(info):
            parts.append(f"print({MARK!r})")
    return "\n".join(parts) + "\n"


def words_and_numbers(text):
    plain = re.sub(r"[─━│┃┏┓┗┛┡┩└┘├┤┼┳┻╇┴┬╈╋\s]+", " ", text).strip()
    return NUMBER.split(plain), [float(number) for number in NUMBER.findall(plain)]


def says(expected, printed):
    """Whether a page's output is what was printed, last bits of the numbers apart."""
    wanted, got = expected.strip().splitlines(), printed.strip().splitlines()
    return len(wanted) == len(got) and all(map(line_says, wanted, got))


def line_says(wanted, got):
    if "…" in wanted:
        return re.fullmatch(".*".join(map(re.escape, wanted.split("…"))), got) is not None
    (words, numbers), (got_words, got_numbers) = words_and_numbers(wanted), words_and_numbers(got)
    near = (isclose(a, b, rel_tol=0.02, abs_tol=0.02) for a, b in zip(numbers, got_numbers, strict=False))
    return words == got_words and len(numbers) == len(got_numbers) and all(near)


# Importing torch takes longer than most pages do, so that is done once: each page runs in a fork of this program,
# as a file in a folder of its own.
RUNNER = """
import os, runpy, sys, traceback
import matplotlib.figure, pandas, rich.progress, rich.table, sklearn.model_selection, sqlalchemy.dialects.sqlite, torch
import polyclinic.datasets.fed_heart_disease, polyclinic.experiment.experiment, polyclinic.federation.simulation

def run(folder):
    os.chdir(folder)
    os.environ["POLYCLINIC_FEDERATION"] = os.path.join(folder, "federation")
    sys.argv[:], sys.path[0] = ["program.py"], folder
    for number, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    try:
        runpy.run_path(os.path.join(folder, "program.py"), run_name="__main__")
        return 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()

for folder in list(sys.argv[1:]):
    child = os.fork()
    if not child:
        os._exit(run(folder))
    print(os.waitpid(child, 0)[1], flush=True)
"""


def test_the_programs_of_the_pages_run_and_print_what_the_pages_say(tmp_path):
    folders = {page: tmp_path / page.stem for page in with_programs()}
    for page, folder in folders.items():
        folder.mkdir()
        (folder / "program.py").write_text(as_program(page), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER, *map(str, folders.values())],
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert ran.returncode == 0, ran.stderr
    problems = []
    for (page, folder), status in zip(folders.items(), ran.stdout.split(), strict=True):
        if status != "0":
            problems.append(f"a program of {page.name} failed:\n{(folder / 'err.txt').read_text('utf-8')}")
        else:
            problems += differences(page, (folder / "out.txt").read_text("utf-8"))
    assert not problems, "\n\n".join(problems)


def differences(page, printed):
    """The outputs of a page that its programs did not print."""
    pieces = iter(printed.split(MARK + "\n"))
    last = ""
    for info, text in blocks(page):
        if is_run(info):
            last = next(pieces)
        elif info == "text output" and not says(text, last):
            yield f"{page.name} says:\n{text}\nand its program printed:\n{last}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_block_that_is_not_run_says_why(page):
    for info, text in blocks(page):
        if info.startswith("python") and info != "python":
            assert info == "python no-run", f"{page.name}: what is {info!r}?"
            assert text.startswith("# "), f"{page.name}: the first line must say why this is not run:\n{text}"


def test_the_pages_that_are_left_out_are_tested_elsewhere():
    assert [path for path in TESTED_THERE.values() if not (ROOT / path).is_file()] == []


def test_the_pages_that_teach_have_programs():
    names = {page.stem for page in with_programs()}
    assert names >= {"README", "quick-start", "write-a-training-plan", "load-and-evaluate", "resume-a-run", "notebooks"}


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("│ a │ 0.779 │", "a 0.778", True),
        ("│ a │ 0.779 │", "a 0.679", False),
        ("a 1", "b 1", False),
        ("a 1", "a 1 2", False),
        ("Nodes at …", "Nodes at somewhere 3", True),
        ("Nodes at …", "Node at somewhere", False),
        ("a\nb", "a", False),
    ],
)
def test_outputs_are_compared_by_words_and_near_numbers(expected, printed, same):
    assert says(expected, printed) == same
