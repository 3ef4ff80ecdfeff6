import pytest
import torch

from polyclinic.errors import ConfigError, PlanError
from polyclinic.node.workbenches import Workbenches, pick_device


def test_a_plan_is_built_once_whoever_asks(work):
    benches = Workbenches()
    first = benches.get(work.train(work.plan()))
    assert benches.get(work.train(work.plan(), lr=0.5, num_updates=9)) is first
    assert benches.get(work.evaluate(work.plan())) is first
    other = work.train(work.plan()).model_copy(update={"model_args": {"a": 1}})
    assert benches.get(other) is not first


def test_the_latest_two_are_kept(work):
    benches = Workbenches()
    requests = [work.train(work.plan(f"return self.model(x).mean() * {k}")) for k in range(3)]
    first, second = benches.get(requests[0]), benches.get(requests[1])
    assert benches.get(requests[0]) is first
    benches.get(requests[2])  # the second one has waited longest
    assert benches.get(requests[0]) is first
    assert benches.get(requests[1]) is not second


def test_what_is_built_depends_on_the_seed_only(work):
    request = work.train(work.plan())
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        states.append(Workbenches().get(request).state()["model.weight"].clone())
    assert torch.equal(*states)


def test_a_plan_that_cannot_be_built_is_not_kept(work):
    benches = Workbenches()
    for _ in range(2):
        with pytest.raises(PlanError, match=r"Plan\(model_args\) failed: NameError: name 'nothing' is not defined"):
            benches.get(work.train(work.plan(model="nothing")))


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "nonsense"):
        with pytest.raises(ConfigError, match=f"device '{name}' is not there") as caught:
            pick_device(name)
        assert caught.value.to_do == 'use device="auto"'
