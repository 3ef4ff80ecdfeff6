import copy
import random
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import TorchTrainingPlan
from polyclinic.errors import AggregationError, ConfigError, PlanError
from polyclinic.plans.workbench import Workbench, build, check_class


class Plan(TorchTrainingPlan):
    """With everything that may leak from one node's training to the next."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.model[0].calls = 0
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.1, weight_decay=0.01)
        self.steps = 0
        self.seen = [[1], "a"]
        self.best = {"loss": None}
        self.names = {"x"}
        self.blocks = [self.model[0], self.model[3]]

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)


def bench(plan_class=Plan, seed=0):
    return Workbench(plan_class, {}, seed=seed)


def train(workbench, steps=3):
    plan = workbench.plan
    torch.manual_seed(1)
    for _ in range(steps):
        loss = plan.training_step(torch.randn(5, 3), torch.randn(5, 1))
        plan.optimizer.zero_grad()
        loss.backward()
        plan.optimizer.step()
    return {name: tensor.clone() for name, tensor in workbench.state().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# ---- reset


def test_plain_attributes_lists_and_added_attributes_are_put_back():
    workbench = bench()
    plan = workbench.plan
    plan.steps += 7
    plan.seen[0].append(2)
    plan.seen.append("b")
    plan.best["loss"] = 0.5
    plan.names.clear()
    plan.added = [1]
    plan.model[0].calls = 9
    plan.model[0].added = 1
    plan.model_args["x"] = 1
    del plan.blocks[0].calls
    workbench.reset(None)
    assert (plan.steps, plan.seen, plan.best, plan.names) == (0, [[1], "a"], {"loss": None}, {"x"})
    assert (plan.model[0].calls, plan.model_args) == (0, {})
    assert not hasattr(plan, "added")
    assert not hasattr(plan.model[0], "added")


def test_a_second_reset_finds_the_same():
    workbench = bench()
    for _ in range(3):
        workbench.plan.seen[0].append(2)
        workbench.reset(None)
        assert workbench.plan.seen == [[1], "a"]


def test_an_attribute_that_became_something_else_is_put_back():
    workbench = bench()
    workbench.plan.steps = torch.zeros(3)
    workbench.plan.best = {"model": nn.Linear(1, 1)}
    workbench.reset(None)
    assert workbench.plan.steps == 0
    assert workbench.plan.best == {"loss": None}


class Holds(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.mean = torch.zeros(2)
        self.counts = np.zeros(2)
        self.table = np.zeros(2)
        self.table.flags.writeable = False
        self.window = deque([1.0], maxlen=3)
        self.python_rng = random.Random(3)
        self.numpy_rng = np.random.default_rng(3)
        self.torch_rng = torch.Generator().manual_seed(3)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.alias = self.model[0].weight.data

    def draw(self):
        return self.python_rng.random(), self.numpy_rng.random(), torch.rand(1, generator=self.torch_rng).item()


def test_tensors_arrays_and_generators_are_the_same_objects_with_their_old_content():
    workbench = bench(Holds)
    plan = workbench.plan
    objects = [plan.mean, plan.counts, plan.python_rng, plan.numpy_rng, plan.torch_rng, plan.alias, plan.optimizer]
    first = None
    for _ in range(2):
        plan.mean += 1
        plan.counts += 1
        plan.scratch += 1
        plan.window.append(2.0)
        drawn = plan.draw()
        first = first or drawn
        assert drawn == first
        plan.mean = plan.counts = plan.python_rng = plan.alias = None
        plan.optimizer = torch.optim.SGD(plan.parameters(), lr=9.0)
        workbench.reset(None)
        assert [id(one) for one in objects] == [
            id(one)
            for one in (
                plan.mean, plan.counts, plan.python_rng, plan.numpy_rng, plan.torch_rng, plan.alias, plan.optimizer
            )
        ]  # fmt: skip
        assert plan.mean.tolist() == plan.counts.tolist() == plan.scratch.tolist() == [0, 0]
        assert list(plan.window) == [1.0]
        assert plan.window.maxlen == 3
    # What shares memory with a weight still does.
    workbench.load({name: torch.ones_like(tensor) for name, tensor in workbench.state().items()})
    assert plan.alias.tolist() == [[1.0] * 3] * 4


def test_modules_in_plain_lists_are_not_copied():
    workbench = bench()
    workbench.reset(None)
    assert workbench.plan.blocks[0] is workbench.plan.model[0]
    assert workbench.plan.blocks[1] is workbench.plan.model[3]


def test_the_optimizers_moments_are_gone():
    workbench = bench()
    train(workbench)
    assert workbench.plan.optimizer.state
    workbench.reset(None)
    assert not workbench.plan.optimizer.state


def test_the_settings_of_a_parameter_group_are_put_back():
    workbench = bench()
    optimizer = workbench.plan.optimizer
    (group,) = optimizer.param_groups
    before = {key: value for key, value in group.items() if key != "params"}
    group.update(lr=9.0, weight_decay=1.0, betas=(0.0, 0.0), initial_lr=3.0)
    del group["eps"]
    optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    workbench.reset(None)
    assert optimizer.param_groups[0] is group
    assert len(optimizer.param_groups) == 1
    assert {key: value for key, value in group.items() if key != "params"} == before
    assert [id(p) for p in group["params"]] == [id(p) for p in workbench.plan.parameters()]


class TensorRate(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=torch.tensor(0.1))


def test_a_learning_rate_that_is_a_tensor_is_put_back():
    workbench = bench(TensorRate)
    for _ in range(2):
        workbench.plan.optimizer.param_groups[0]["lr"].fill_(9)
        workbench.reset(None)
        assert workbench.plan.optimizer.param_groups[0]["lr"].item() == pytest.approx(0.1)


class TwoGroups(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.optimizer = torch.optim.SGD(
            [{"params": self.model[0].parameters(), "lr": 0.5}, {"params": self.model[3].parameters()}], lr=0.1
        )


def test_the_learning_rate_is_that_of_the_round_or_the_plans_own():
    workbench = bench(TwoGroups)
    workbench.reset(0.3)
    assert [group["lr"] for group in workbench.plan.optimizer.param_groups] == [0.3, 0.3]
    workbench.reset(None)
    assert [group["lr"] for group in workbench.plan.optimizer.param_groups] == [0.5, 0.1]


def test_parameters_that_training_froze_are_trained_again():
    workbench = bench()
    workbench.plan.model[0].requires_grad_(False)
    workbench.reset(None)
    assert all(parameter.requires_grad for parameter in workbench.plan.parameters())


class Frozen(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model[0].requires_grad_(False)


def test_parameters_that_the_author_froze_stay_frozen():
    workbench = bench(Frozen)
    workbench.plan.requires_grad_(True)
    workbench.reset(None)
    frozen = [name for name, parameter in workbench.plan.named_parameters() if not parameter.requires_grad]
    assert frozen == ["model.0.weight", "model.0.bias"]


class Remembers(Plan):
    """A step that goes by what the plan remembers, in each of the ways that are undone."""

    def training_step(self, x, y):
        self.steps += 1
        self.seen[0].append(self.steps)
        self.turns = getattr(self, "turns", 0) + 1
        self.optimizer.param_groups[0]["lr"] *= 0.5
        scale = self.steps + len(self.seen[0]) + self.turns
        return F.mse_loss(self.model(x), y) * scale


def test_training_after_a_reset_is_as_in_a_new_process():
    """The independent truth: a plan that was never trained before."""
    used, fresh = bench(Remembers), bench(Remembers)
    begin = {name: tensor.clone() for name, tensor in fresh.state().items()}
    train(used, steps=4)
    used.reset(0.1)
    used.load(begin)
    fresh.reset(0.1)
    assert_equal(train(used), train(fresh))


def test_free_gradients():
    workbench = bench()
    train(workbench)
    assert all(parameter.grad is not None for parameter in workbench.plan.parameters())
    workbench.free_gradients()
    assert all(parameter.grad is None for parameter in workbench.plan.parameters())


# ---- state and load


def test_state_is_live_and_without_gradients():
    workbench = bench()
    state = workbench.state()
    with torch.no_grad():
        workbench.plan.model[0].bias.fill_(5)
    assert state["model.0.bias"].tolist() == [5] * 4
    assert not any(tensor.requires_grad for tensor in state.values())
    assert state["model.1.num_batches_tracked"].shape == ()
    assert list(state) == list(workbench.plan.state_dict())


def test_load_copies():
    one, other = bench(seed=0), bench(seed=1)
    sent = {name: tensor.clone() for name, tensor in other.state().items()}
    one.load(sent)
    assert_equal(one.state(), sent)
    train(one)
    assert_equal(other.state(), sent)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("model.3.bias"), "the model that was sent is not the plan's: tensors model.3.bias differ"),
        (
            lambda t: t.update({"more": torch.zeros(1)}) or t.pop("model.0.bias"),
            "the model that was sent is not the plan's: tensors model.0.bias, more differ",
        ),
        (
            lambda t: t.update({"model.3.weight": torch.zeros(1, 5)}),
            "tensor 'model.3.weight' has shape (1, 5), the plan's has (1, 4)",
        ),
        (
            lambda t: t.update({"model.1.num_batches_tracked": torch.zeros(1)}),
            "tensor 'model.1.num_batches_tracked' has shape (1,), the plan's has ()",
        ),
    ],
)
def test_tensors_of_another_model_are_named_and_none_is_loaded(change, text):
    workbench, sent = bench(seed=0), bench(seed=1).state()
    before = copy.deepcopy(workbench.state())
    change(sent)
    with pytest.raises(AggregationError) as caught:
        workbench.load(sent)
    assert caught.value.what == text
    assert_equal(workbench.state(), before)


# ---- building


class Draws(Plan):
    def __init__(self, model_args):
        random.random()
        np.random.random()  # noqa: NPY002
        super().__init__(model_args)


def test_a_seeded_build_leaves_the_global_generators_alone():
    def draws():
        return random.random(), float(np.random.random()), torch.rand(1).item()  # noqa: NPY002

    def seed():
        random.seed(7)
        np.random.seed(7)  # noqa: NPY002
        torch.manual_seed(7)

    seed()
    expected = draws()
    seed()
    bench(Draws)
    assert draws() == expected


def test_the_seed_decides_the_initial_weights():
    one, same, other = bench(seed=5), bench(seed=5), bench(seed=6)
    assert_equal(one.state(), same.state())
    assert not torch.equal(one.state()["model.0.weight"], other.state()["model.0.weight"])


class NoArguments(Plan):
    def __init__(self):
        super().__init__({})


class DefaultArguments(Plan):
    def __init__(self, model_args: dict = {}):  # noqa: B006 (an idiom that researchers write)
        super().__init__(model_args)
        model_args["spoilt"] = True


class ForgetsArguments(Plan):
    def __init__(self, model_args):
        super().__init__({})


@pytest.mark.parametrize("plan_class", [NoArguments, DefaultArguments, ForgetsArguments, Plan])
def test_each_way_to_write_init_works(plan_class):
    given = {"a": 1}
    assert isinstance(build(plan_class, given), plan_class)
    assert given == {"a": 1}


class NoStep(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)


class NoOptimizer(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        del self.optimizer


class OptimizerIsText(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.optimizer = "adam"


class AllFrozen(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.requires_grad_(False)


class NoModel(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)

    def training_step(self, x, y):
        return torch.zeros(())


class NeedsFeatures(Plan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(model_args["features"], 1)


class ForgetsSuper(Plan):
    def __init__(self, model_args):
        self.model = nn.Linear(1, 1)


class TwoArguments(Plan):
    def __init__(self, model_args, more):
        super().__init__(model_args)


SET_OPTIMIZER = "set self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1), or another, in __init__"
SET_MODEL = "set self.model to a torch module in __init__"
CHECK_ARGS = "check model_args against the plan"


@pytest.mark.parametrize(
    ("plan_class", "what", "to_do"),
    [
        (NoStep, "NoStep has no training_step", "write training_step(self, x, y) that returns the batch's loss"),
        (NoOptimizer, "NoOptimizer has no optimizer", SET_OPTIMIZER),
        (OptimizerIsText, "OptimizerIsText has no optimizer", SET_OPTIMIZER),
        (AllFrozen, "AllFrozen has no parameters to train", SET_MODEL),
        (NoModel, "NoModel has no parameters to train", SET_MODEL),
        (NeedsFeatures, "NeedsFeatures(model_args) failed: KeyError: 'features'", CHECK_ARGS),
        (ForgetsSuper, "ForgetsSuper(model_args) failed: AttributeError: cannot assign module before", CHECK_ARGS),
        (TwoArguments, "TwoArguments(model_args) failed: TypeError: ", CHECK_ARGS),
        (nn.Linear, "Linear is no training plan", "write class Linear(TorchTrainingPlan)"),
        (len, "len is no training plan", "write class len(TorchTrainingPlan)"),
        (3, "3 is no training plan", "write class 3(TorchTrainingPlan)"),
    ],
)
def test_a_plan_that_cannot_be_built(plan_class, what, to_do):
    with pytest.raises(PlanError) as caught:
        Workbench(plan_class, {}, seed=0)
    assert caught.value.what.startswith(what)
    assert caught.value.to_do == to_do


class RefusesArguments(Plan):
    def __init__(self, model_args):
        raise ConfigError("features must be above 0")


def test_an_error_of_ours_in_init_is_not_wrapped():
    with pytest.raises(ConfigError, match="features must be above 0"):
        build(RefusesArguments, {})


def test_check_class_takes_a_plan_whose_step_is_inherited():
    class Child(Plan):
        pass

    check_class(Child)


CHANGES = {
    "a number": lambda plan: setattr(plan, "steps", 1),
    "inside of a list": lambda plan: plan.seen[0].append(2),
    "a submodule's": lambda plan: setattr(plan.model[0], "calls", 1),
    "a new one": lambda plan: setattr(plan, "more", 0),
    "a tensor": lambda plan: plan.weights.add_(1),
    "another tensor": lambda plan: setattr(plan, "weights", plan.weights.clone()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_attributes_tell_what_changed(change):
    workbench = bench()
    workbench.plan.weights = torch.ones(2)
    before = workbench.attributes()
    assert repr(workbench.attributes()) == repr(before)
    CHANGES[change](workbench.plan)
    assert repr(workbench.attributes()) != repr(before)
