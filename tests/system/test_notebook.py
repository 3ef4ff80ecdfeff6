"""A whole experiment in a real Jupyter kernel: the plan is typed into cells, and all is shown as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = {
    "imports": "import warnings; warnings.simplefilter('error')\n"
    "import torch\nfrom torch import nn\nfrom polyclinic import Experiment, TorchTrainingPlan, simulate",
    "constant": "WIDTH = 4",
    "layer": "def layer(n_in, n_out):\n    return nn.Sequential(nn.Linear(n_in, n_out), nn.Tanh())",
    "plan": """
class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(layer(13, WIDTH), nn.Linear(WIDTH, 1))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)

    def predict(self, x):
        return torch.sigmoid(self.model(x))
""",
    "federation": "hospitals = simulate('fed_heart_disease')\nhospitals",
    "experiment": "args = {'batch_size': 16, 'epochs': 1}\n"
    "experiment = Experiment(Plan, training_args=args, federation=hospitals, round_limit=3, folder='run')\nexperiment",
    "check": "assert experiment.check()",
    "run": "experiment.run()",
    "evaluation": "evaluation = experiment.evaluate(metrics=['accuracy'])\nevaluation",
    "load": "again = Experiment.load('run', federation=hospitals)\n"
    "assert again.evaluate(metrics=['accuracy']).pooled == evaluation.pooled\nagain",
    "plot": "experiment.history.plot()",
    "in workers": """
there = simulate('fed_heart_disease', workers=1)
twin = Experiment(Plan, training_args=args, federation=there, round_limit=3, folder='twin')
twin.run()
there.close()
mine, its = experiment.model().state_dict(), twin.model().state_dict()
print('the same model:', all(torch.equal(mine[name], its[name]) for name in its))
""",
    "compare": "Experiment.compare(experiment, 'twin', labels=['here', 'in workers'])",
}


def run_cells(folder: Path) -> dict[str, dict[str, Any]]:
    """What each cell showed: its last value by MIME type, and its printed text."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS.values()])
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert (folder / "run" / "experiment.json").exists()
    found: dict[str, dict[str, Any]] = {}
    for name, cell in zip(CELLS, notebook.cells, strict=True):
        found[name] = {"printed": ""}
        for output in cell.outputs:
            if output.output_type == "execute_result":
                found[name] |= dict(output.data)
            elif output.output_type == "stream" and output.name == "stdout":
                found[name]["printed"] += output.text
    return found


SHOWN = {
    "federation": ["Cleveland", "Hungary", "Switzerland", "Long Beach VA"],
    "experiment": ["Plan", "FedAverage", "0 of 3", "run"],
    "run": ["train", "loss", "Cleveland", "num_samples"],
    "evaluation": ["accuracy", "pooled", "254", "test data, model after round 3"],
    "load": ["3 of 3"],
    "compare": ["here", "in workers", "FedAverage", "train loss", "data:image/png;base64,"],
}


def test_a_whole_experiment(tmp_path: Path) -> None:
    shown = run_cells(tmp_path)
    for cell, words in SHOWN.items():
        html = shown[cell]["text/html"]
        assert html.count("<table>") == html.count("</table>") == 1
        assert [word for word in words if word not in html] == []
        assert shown[cell]["text/plain"]
    assert "Can every node run this?" in shown["check"]["printed"]
    assert "image/png" in shown["plot"] or "Figure" in shown["plot"]["text/plain"]
    assert shown["in workers"]["printed"].endswith("the same model: True\n")
