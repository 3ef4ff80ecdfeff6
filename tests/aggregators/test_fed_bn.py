"""FedBN: which layers stay, and that they do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import FedAverage, FedBN, TorchTrainingPlan, simulate
from polyclinic.errors import ConfigError


class Normed(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 1))
        self.model.double()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)


BATCH_NORM = {f"model.1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
LAYER_NORM = {"model.3.weight", "model.3.bias"}
LINEAR = {f"model.{k}.{name}" for k in (0, 4) for name in ("weight", "bias")}


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2, affine=True), nn.InstanceNorm3d(2))
        self.norm = nn.SyncBatchNorm(2)
        self.group = nn.GroupNorm(1, 2)
        self.rms = nn.RMSNorm(2)
        self.again = self.norm


@pytest.mark.parametrize(
    ("net", "every_norm", "expected"),
    [
        (Normed({}), False, BATCH_NORM),
        (Normed({}), True, BATCH_NORM | LAYER_NORM),
        (
            Deep(),
            False,
            {"stem.1.weight", "stem.1.bias"}
            | {
                f"{layer}.{name}"
                for layer in ("norm", "again")
                for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            },
        ),
    ],
    ids=["batch", "every", "deep"],
)
def test_the_layers_that_stay(net, every_norm, expected):
    assert set(FedBN(every_norm=every_norm).local_layers(net)) == expected


def test_group_and_rms_norm_stay_if_asked_to():
    more = set(FedBN(every_norm=True).local_layers(Deep())) - set(FedBN().local_layers(Deep()))
    assert more == {"group.weight", "group.bias", "rms.weight"}


def test_nothing_of_them_is_ever_sent_and_each_node_has_its_own(quadratics, run):
    federation = quadratics.spied(simulate(quadratics.data))
    experiment = run(FedBN(), 3, plan=Normed, federation=federation)
    assert federation.sent == LINEAR | LAYER_NORM
    own = [
        node._kept(experiment.evaluate_request()).load(before=4).part("local") for node in federation.inner.each_node()
    ]
    assert [set(tensors) for tensors in own] == [BATCH_NORM] * 3
    for name in ("weight", "bias", "running_mean"):
        assert not torch.equal(own[0][f"model.1.{name}"], own[1][f"model.1.{name}"])


def test_it_is_averaging_with_those_layers_named_by_hand(run):
    one = run(FedBN(weights="uniform"), 3, plan=Normed)
    args = {"batch_size": 100, "num_updates": 5, "local_layers": ["model.1"]}
    other = run(FedAverage(weights="uniform"), 3, plan=Normed, training_args=args)
    for name, tensor in one.model().state_dict().items():
        assert torch.equal(tensor, other.model().state_dict()[name]), name
    assert one.evaluate("train").to_pandas().equals(other.evaluate("train").to_pandas())
    plain = run(FedAverage(weights="uniform"), 3, plan=Normed)
    assert not torch.equal(one.model()[0].weight, plain.model()[0].weight)


def test_a_plan_without_such_layers(run, quadratics):
    with pytest.raises(ConfigError, match="the plan has no BatchNorm layer") as caught:
        run(FedBN(), 1)
    assert caught.value.to_do == "write FedBN(every_norm=True) to keep others as well"
    with pytest.raises(ConfigError, match="the plan has no normalisation layer with weights or statistics") as caught:
        run(FedBN(every_norm=True), 1)
    assert caught.value.to_do == "take FedAverage"
