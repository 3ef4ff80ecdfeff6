"""Plans typed into a notebook: in a real Jupyter kernel."""

from __future__ import annotations

import json

import pytest

from polyclinic.plans.source import PlanSource, load_plan_class

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = [
    # In[1]
    "%config InlineBackend.figure_format = 'png'\nimport math, json\n!true\nfrom functools import partial",
    "# Chosen by hand.\nHIDDEN = 8\nMEANS = [1.0]\nMEANS.append(2.0)",
    "def block(n):\n    # the first version\n    return n",
    # In[4]
    "%%time\ndef scale(x):\n    return x * HIDDEN\nOFFSET = 7",
    "class Plan:\n    def value(self):\n        return 'old'",
    "def block(n):\n    # the second version\n    return math.sqrt(n)\nblock(4)",
    "class Plan:\n    def value(self):\n        return block(4), scale(2), MEANS, OFFSET, pick(2)",
    # In[8]: what is defined after the class that uses it
    "pick = partial(max, HIDDEN)",
    "this is not Python",
    "HIDDEN = 16",
    "from polyclinic.plans.source import extract_source\nsource = extract_source(Plan)\n"
    "print(json.dumps([source.text, source.class_name, Plan().value()]))",
    # In[12]
    "class Shown:\n    def value(self):\n        display(1)\n",
    "def fails(cls):\n    try:\n        extract_source(cls)\n    except Exception as err:\n"
    "        print(json.dumps([type(err).__name__, err.what, err.where]))",
    "fails(Shown)",
    "rows = open('/dev/null')\nclass Reader:\n    def value(self):\n        return rows",
    "fails(Reader)",
    "rows.close()\nMEAN = [len, 4]\nMEAN = MEAN[1:]",
    "MEAN = [len] + MEAN\nclass Tiny:\n    means = MEAN\nprint(json.dumps(extract_source(Tiny).text))",
    "from IPython.display import display\nfails(Shown)",
]


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each cell printed, by its number."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    outputs = {}
    for number, cell in enumerate(notebook.cells, start=1):
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stdout":
                outputs[number] = output.text
            elif output.output_type == "error" and number != 9:
                raise AssertionError(f"In[{number}]: {output.ename}: {output.evalue}")
    return outputs


def test_the_latest_version_of_every_name_travels(printed):
    text, class_name, value = json.loads(printed[11])
    assert "second version" in text
    assert "first version" not in text
    assert "'old'" not in text
    assert "# Chosen by hand" not in text
    assert "HIDDEN = 16\n" in text
    assert "MEANS = [1.0, 2.0]\n" in text
    assert "json" not in text
    assert "get_ipython" not in text
    assert text.startswith("# The training plan Plan and all that it uses, taken by Polyclinic from a notebook.\n")
    # `pick` was made while HIDDEN was 8; the text says what the notebook says now.
    assert value == [2.0, 32, [1.0, 2.0], 7, 8]
    assert load_plan_class(PlanSource(text, class_name))().value() == (2.0, 32, [1.0, 2.0], 7, 16)


def test_refusals_name_the_cell_and_the_line(printed):
    kind, what, where = json.loads(printed[14])
    assert (kind, what) == ("PlanSourceError", "'display' belongs to the notebook or the prompt; nodes do not have it")
    assert where == {"used_by": "Shown at cell In[12], line 1", "at": "cell In[12], line 3"}
    kind, what, where = json.loads(printed[16])
    assert what == "'rows' is an open file; it cannot travel to the nodes"
    assert where == {"used_by": "Reader at cell In[15], line 2", "at": "cell In[15], line 1"}
    kind, what, where = json.loads(printed[19])
    assert what == "'display' from IPython.display belongs to the notebook; nodes do not have it"


def test_a_value_made_in_steps_over_several_cells(printed):
    text = json.loads(printed[18])
    assert "MEAN = [len, 4]\nMEAN = MEAN[1:]\nMEAN = [len] + MEAN\n" in text
    assert load_plan_class(PlanSource(text, "Tiny")).means == [len, 4]
