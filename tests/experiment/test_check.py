import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import TorchTrainingPlan
from polyclinic.errors import NoMatchingNodes
from polyclinic.experiment.check import CheckReport


class Wide(TorchTrainingPlan):
    """Takes four columns; the data have three."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)


def test_every_node_says_what_it_checked(make, capsys, tmp_path):
    report = make().check()
    assert report.ok
    assert report
    assert [(node, name) for node, name, _, _ in report.rows] == [
        (node, name) for node in ("ash", "birch", "cedar") for name in ("versions", "data", "plan", "one step")
    ]
    out = capsys.readouterr().out
    assert "Can every node run this?" in out
    assert "birch: 9 train, 8 test" in out
    assert list(tmp_path.iterdir()) == []  # no run folder is made


def test_a_check_says_which_node_cannot(make, capsys):
    report = make(model_class=Wide).check()
    assert not report
    (bad, *_) = [row for row in report.rows if not row[2]]
    assert bad[:2] == ("ash", "one step")
    assert "mat1 and mat2 shapes cannot be multiplied (4x3 and 4x1)" in bad[3]
    assert "NO" in capsys.readouterr().out


def test_a_check_changes_nothing(make, same, tmp_path, capsys):
    plain = make(folder=tmp_path / "plain")
    plain.run()
    checked = make()
    initial = checked.model()
    checked.check()
    assert same(checked.model(), initial)
    assert checked.round == 0
    checked.run(rounds=2)
    before = random.getstate(), torch.get_rng_state()
    checked.check()
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    checked.run()
    assert same(checked.model(), plain.model())


def test_a_check_needs_nodes(make):
    with pytest.raises(NoMatchingNodes):
        make(tags=["moss"]).check()


def test_html():
    html = CheckReport((("<b>", "plan", True, "x < y"), ("ash", "data", False, "gone")))._repr_html_()
    assert "<td>&lt;b&gt;</td><td>plan</td><td>✓</td><td>x &lt; y</td>" in html
    assert "<td>✗</td><td>gone</td>" in html
