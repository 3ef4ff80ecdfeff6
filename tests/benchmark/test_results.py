from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import warnings
from typing import get_args

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.benchmark.results import COLUMNS, ResultRow, ResultsFile, Status, cell_id
from polyclinic.errors import ConfigError

TESTS = ("Cleveland", "Hungary", "mean", "pooled")
VALUES = dict(zip(TESTS, (0.5, 0.7, 0.6, 0.55), strict=True))


@pytest.fixture
def file(tmp_path) -> ResultsFile:
    return ResultsFile(tmp_path / "new folder" / "results.csv")


# ---- what is written is what is read

KINDS = {
    str: st.text(max_size=20).filter(lambda text: not {"\r", "\n"} & set(text)),
    int: st.integers(min_value=-(2**63), max_value=2**63),
    float: st.floats(),
    bool: st.booleans(),
    Status: st.sampled_from(get_args(Status)),
}
ROWS = st.builds(ResultRow, **{name: KINDS[field.annotation] for name, field in ResultRow.model_fields.items()})


@settings(deadline=None)  # the file is synchronised with the disk
@given(rows=st.lists(ROWS, min_size=1, max_size=3))
def test_rows_come_back_as_they_were(tmp_path_factory, rows):
    one_cell = [row.model_copy(update={"cell": "c", "rows": len(rows), "finished": "now"}) for row in rows]
    file = ResultsFile(tmp_path_factory.mktemp("round") / "results.csv")
    file.append(one_cell)
    found = file.read()
    assert [_comparable(row) for row in found] == [_comparable(row) for row in one_cell]


def _comparable(row):
    return {name: repr(value) for name, value in row.model_dump().items()}  # NaN is equal to NaN, and 0.0 is not -0.0


def test_a_line_break_in_a_text_becomes_a_space(file, cell):
    rows = cell("Local A\r\nB", 1, VALUES)
    file.append(rows)
    assert {row.method for row in file.read()} == {"Local A B"}
    assert len(file.path.read_bytes().split(b"\n")) == len(rows) + 2  # the header, and nothing after the last break


def test_a_name_that_is_no_unicode_is_written_too(file, cell):
    file.append(cell("FedAverage", 1, status="failed", detail="no file data\udcff.npy"))
    assert {row.detail for row in file.read()} == {r"no file data\udcff.npy"}


def test_the_columns_of_the_file(file, cell):
    file.append(cell("FedAverage", 42, VALUES, settings='{"lr": 0.1}'))
    file.append(cell("Pooled", 42, VALUES, rounds=(1,)))
    with file.path.open(newline="", encoding="utf-8") as opened:
        lines = list(csv.DictReader(opened))
    assert tuple(lines[0]) == COLUMNS
    assert [line["method"] for line in lines] == ["FedAverage"] * 8 + ["Pooled"] * 4
    assert json.loads(lines[0]["settings"]) == {"lr": 0.1}
    assert [float(line["value"]) for line in lines[4:8]] == list(VALUES.values())
    table = file.to_pandas()
    assert list(table.columns) == list(COLUMNS)
    assert table.query("method == 'FedAverage' and final").set_index("test")["value"].to_dict() == VALUES
    # Anyone's reader of CSV gives the same.
    pd.testing.assert_frame_equal(
        pd.read_csv(file.path, keep_default_na=False, float_precision="round_trip"), table, check_dtype=False
    )


def test_the_documentation_names_every_column():
    import polyclinic.benchmark.results as module

    named = [line.split("``")[1] for line in module.__doc__.splitlines() if line.startswith("``")]
    assert tuple(named) == COLUMNS


def test_no_file_and_an_empty_one_have_no_rows(file):
    assert file.read() == []
    file.path.parent.mkdir()
    file.path.touch()
    assert file.read() == []
    assert list(file.to_pandas().columns) == list(COLUMNS)


# ---- cells


def test_the_id_is_that_of_what_decides_the_result():
    what = {"method": "FedAverage", "settings": {"lr": 0.1, "mu": 1}, "seed": 1}
    assert cell_id(what) == cell_id({"seed": 1, "settings": {"mu": 1, "lr": 0.1}, "method": "FedAverage"})
    others = [what | {"seed": 2}, what | {"settings": {"lr": 0.1}}, what | {"method": "Pooled"}]
    assert len({cell_id(w) for w in [what, *others]}) == 4


def test_a_cell_that_was_run_twice_counts_once_and_the_last_time(file, cell):
    file.append(cell("FedAverage", 1, VALUES, finished="first"))
    file.append(cell("FedAverage", 2, VALUES))
    file.append(cell("FedAverage", 1, {"pooled": 0.9}, finished="second"))
    rows = file.read()
    assert [(row.seed, row.value) for row in rows if row.final and row.test == "pooled"] == [(1, 0.9), (2, 0.55)]
    assert sum(row.seed == 1 for row in rows) == 2


def test_diverged_cells_are_done_and_failed_ones_are_run_again(file, cell):
    good, diverged = cell("FedAverage", 1, VALUES), cell("FedYogi", 1, status="diverged")
    failed = cell("FedProx", 1, status="failed")
    for rows in (good, diverged, failed):
        file.append(rows)
    assert file.done() == {good[0].cell, diverged[0].cell}
    assert [row.status for row in file.read() if math.isnan(row.value)] == ["diverged"] * 2 + ["failed"] * 2


def test_the_file_of_another_protocol_is_refused(file, cell):
    file.append(cell("FedAverage", 1, VALUES))
    file.require_protocol("flamby")
    with pytest.raises(ConfigError, match=r"results of protocol 'flamby', not 'polyclinic'\n  What to do: give anoth"):
        file.require_protocol("polyclinic")


# ---- damage


@pytest.fixture
def two(file, cell):
    """A file of two cells, and the second one's rows."""
    file.append(cell("FedAverage", 1, VALUES))
    rows = cell("FedProx", 1, VALUES)
    file.append(rows)
    return file, rows


def test_a_file_cut_off_anywhere_keeps_its_complete_cells(two, cell):
    file, second = two
    content = file.path.read_bytes()
    header, *lines = content.split(b"\n")[:-1]
    first_ends = len(b"\n".join([header, *lines[:8]]))
    # In the header, in the first cell, after it, at each column of the last line, and at the very end.
    cuts = [1, 9, len(header), len(header) + 3, first_ends, first_ends + 1, first_ends + 500]
    last_begins = len(content) - len(lines[-1]) - 1
    cuts += [last_begins + k for k, byte in enumerate(lines[-1]) if byte in b'",:']
    for cut in cuts:
        file.path.write_bytes(content[:cut])
        third = cell("FedYogi", 1, VALUES)
        file.append(third)
        # A line that was cut off is damaged, unless nothing of it was lost or it lost only an end that nobody misses.
        found = {row.cell for row in _read(file)}
        assert third[0].cell in found, cut
        assert (cell("FedAverage", 1)[0].cell in found) == (cut >= first_ends), cut
        assert second[0].cell not in found, cut
        assert len([row for row in _read(file) if row.cell == third[0].cell]) == 8


def _read(file):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return file.read()


def test_a_cell_whose_writing_was_interrupted_is_written_again(two):
    file, second = two
    content = file.path.read_bytes()
    file.path.write_bytes(content[:-100])
    with pytest.warns(UserWarning, match=r"results\.csv: 1 damaged lines are left out, all others are used"):
        assert second[0].cell not in file.done()
    again = [row.model_copy(update={"finished": "later"}) for row in second]
    file.append(again)
    with pytest.warns(UserWarning, match="1 damaged"):
        found = file.read()
    assert [row for row in found if row.cell == second[0].cell] == again


@pytest.mark.parametrize(
    "garbage",
    [bytes(range(256)) * 3, b'"', b"a,b\n1,2\n", b"\xff\xfe\x00", b'x"y,"z\n', b"," * 21, b"\x0c\x1c\x85\n\r\n"],
    ids=["bytes", "quote", "csv", "utf-16", "quotes", "commas", "breaks"],
)
def test_garbage_between_cells_harms_neither(file, cell, garbage):
    one, other = cell("FedAverage", 1, VALUES), cell("FedProx", 1, VALUES)
    file.append(one)
    with file.path.open("ab") as opened:
        opened.write(garbage)
    file.append(other)
    with pytest.warns(UserWarning, match=r"damaged lines are left out"):
        assert file.read() == one + other
    assert garbage in file.path.read_bytes()  # it stays: it may be somebody's


def test_a_damaged_first_line_costs_no_result(two):
    file, _ = two
    whole = file.read()
    content = file.path.read_bytes()
    file.path.write_bytes(b"\x00\x00" + content[2:])
    with pytest.warns(UserWarning, match="1 damaged"):
        assert file.read() == whole
    # What a spreadsheet makes of it.
    file.path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    assert file.read() == whole


@pytest.mark.parametrize(
    "content",
    [b"name,age\nA,3\n", b"hello", b"\x89PNG\r\n\x1a\n", b"protocol;dataset;method\n"],
    ids=["csv", "text", "png", "semicolons"],
)
def test_a_file_of_another_kind_is_refused(file, content):
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"results\.csv is no results file: .*\n  What to do: give the file that"):
        file.read()


# ---- several programs


WRITER = """
import json, sys
from polyclinic.benchmark.results import ResultRow, ResultsFile
file = ResultsFile(sys.argv[1])
cells = [[ResultRow(**row) for row in rows] for rows in json.load(sys.stdin)]
for rows in cells:
    file.append(rows)
"""


def test_three_programs_write_at_the_same_time(file, cell):
    cells = [[cell(f"method {n}", seed, VALUES) for seed in range(30)] for n in range(3)]
    writers = []
    for own in cells:
        command = [sys.executable, "-c", WRITER, str(file.path)]
        writers.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        json.dump([[row.model_dump() for row in rows] for rows in own], writers[-1].stdin)
    for writer in writers:
        writer.stdin.close()
    for writer in writers:
        assert writer.wait() == 0
    assert sorted(map(repr, file.read())) == sorted(repr(row) for own in cells for rows in own for row in rows)
    assert file.path.read_text(encoding="utf-8").count("protocol,dataset") == 1
