"""Local training, against loops written out by hand: same batches, same bits."""

import math
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from polyclinic.aggregators import LOCAL_RULES
from polyclinic.aggregators.aggregator import LocalRound, LocalRuleStep
from polyclinic.errors import PlanError
from polyclinic.federation.simulation import simulate
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.messages.requests import LocalRule
from polyclinic.node.batches import round_order
from polyclinic.node.experiment_state import pack_optimizer


def order(request, n, node_id="ward"):
    parts = round_order(n, request.training_args, round_index=request.round, seed=request.seed, node_id=node_id)
    return [batch for part in parts for batch in torch.split(part, request.training_args.batch_size)]


def linear(state):
    model = nn.Linear(3, 1)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    return model


def loop(model, optimizer, dataset, batches, before_step=lambda: None):
    losses = []
    for rows in batches:
        x, y = dataset.tensors[0][rows], dataset.tensors[1][rows]
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        before_step()
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same(state, module, prefix="model."):
    expected = {prefix + name: tensor for name, tensor in module.state_dict().items()}
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


def trained(node, request):
    reply = node.handle(request)
    assert isinstance(reply, TrainReply), reply
    return reply


@pytest.mark.parametrize("given", [{"num_updates": 7}, {"epochs": 2}, {"epochs": 2, "drop_last": True}])
def test_a_round_is_the_loop_bit_for_bit(work, node, given):
    text, dataset = work.plan(), work.rows(10)
    state = work.initial(text)
    if "epochs" in given:
        given = {"num_updates": None} | given
    for number in (1, 2):
        request = work.train(text, state, round_index=number, **given)
        reply = trained(node, request)
        model = linear(state)
        losses = loop(model, torch.optim.SGD(model.parameters(), lr=0.1), dataset, order(request, 10))
        assert_same(reply.tensors, model)
        assert (reply.num_samples, reply.num_updates) == (10, len(losses))
        assert reply.loss == math.fsum(losses) / len(losses)
        state = {name: tensor.clone() for name, tensor in reply.tensors.items()}


def test_what_was_sent_is_not_changed(work, node):
    text = work.plan()
    state = work.initial(text)
    reply = trained(node, work.train(text, state))
    for name, tensor in work.initial(text).items():
        assert torch.equal(state[name], tensor)
        assert not torch.equal(reply.tensors[name], tensor)


def test_the_learning_rate_is_the_rounds(work, node):
    text = work.plan()
    state = work.initial(text)
    schedule = {"kind": "step", "every": 2, "factor": 0.5}
    for number, rate in [(1, 0.08), (2, 0.08), (3, 0.04), (5, 0.02)]:
        request = work.train(text, state, round_index=number, lr=0.08, lr_schedule=schedule)
        model = linear(state)
        loop(model, torch.optim.SGD(model.parameters(), lr=rate), work.rows(10), order(request, 10))
        assert_same(trained(node, request).tensors, model)


def test_gradients_are_clipped_as_torch_does(work, node):
    text = work.plan()
    state = work.initial(text)
    request = work.train(text, state, clip_norm=0.3)
    model = linear(state)
    norms = []

    def clip():
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.3)))

    loop(model, torch.optim.SGD(model.parameters(), lr=0.1), work.rows(10), order(request, 10), clip)
    assert max(norms) > 0.3  # else nothing was clipped, and nothing tested
    assert_same(trained(node, request).tensors, model)


def test_a_local_rule_adjusts_the_gradients(work, node):
    text = work.plan()
    state = work.initial(text)
    request = work.train(text, state).model_copy(update={"local_rule": LocalRule(name="proximal", numbers={"mu": 0.7})})
    model = linear(state)
    start = [parameter.detach().clone() for parameter in model.parameters()]

    def pull():
        for parameter, begun in zip(model.parameters(), start, strict=True):
            parameter.grad += 0.7 * (parameter.detach() - begun)

    loop(model, torch.optim.SGD(model.parameters(), lr=0.1), work.rows(10), order(request, 10), pull)
    reply = trained(node, request)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(reply.tensors[f"model.{name}"], tensor, rtol=1e-6, atol=1e-7)


def test_a_rule_that_the_node_does_not_know_is_refused(work, node):
    rule = LocalRule(name="proximall", numbers={})
    reply = node.handle(work.train(work.plan()).model_copy(update={"local_rule": rule}))
    assert (reply.code, reply.stage) == ("config", "train")
    assert "unknown local rule 'proximall'; did you mean 'proximal'?" in reply.what


def test_a_dry_run_is_one_batch(work, node):
    text = work.plan()
    request = work.train(text, dry_run=True)
    reply = trained(node, request)
    model = linear(work.initial(text))
    losses = loop(model, torch.optim.SGD(model.parameters(), lr=0.1), work.rows(10), order(request, 10))
    assert (reply.num_updates, len(losses)) == (1, 1)
    assert_same(reply.tensors, model)


def test_training_data_may_choose_and_change_the_rows(work, node):
    more = """
        def training_data(self, dataset):
            return torch.utils.data.Subset(dataset, [0, 1, 2, 3, 4])
    """
    request = work.train(work.plan(more=more), num_updates=None, epochs=1)
    reply = trained(node, request)
    assert (reply.num_samples, reply.num_updates) == (5, 2)
    model = linear(request.tensors)
    loader = DataLoader(Subset(work.rows(10), range(5)), batch_sampler=[b.tolist() for b in order(request, 5)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    assert_same(reply.tensors, model)


def test_an_empty_training_set_is_told(work, node):
    more = """
        def training_data(self, dataset):
            return torch.utils.data.Subset(dataset, [])
    """
    reply = node.handle(work.train(work.plan(more=more)))
    assert (reply.code, reply.what) == ("training", "there is nothing to train on: the training dataset is empty")


# ---- what goes wrong in a plan


@pytest.mark.parametrize(
    ("step", "code", "what", "to_do"),
    [
        ("raise KeyError('left')", "training", "KeyError: 'left'", "the traceback says where"),
        ("sys.exit('enough')", "training", "SystemExit: enough", "the traceback says where"),
        ("return (self.model(x) - y) ** 2", "plan", "a scalar tensor, it returned a tensor of shape (4, 1)", ".mean()"),
        ("return F.mse_loss(self.model(x), y).item()", "plan", "it returned float", ".mean()"),
        ("F.mse_loss(self.model(x), y)", "plan", "it returned None", ".mean()"),
        ("return F.mse_loss(self.model(x), y).detach()", "plan", "a loss without a gradient", ".detach()"),
        (
            "return F.mse_loss(self.model(x), y) * float('nan')",
            "diverged",
            "the loss of batch 1 is nan",
            "a logarithm or a division",
        ),
        (
            "self.seen = getattr(self, 'seen', 0) + 1\n"
            "return F.mse_loss(self.model(x), y) / (0.0 if self.seen == 3 else 1.0)",
            "diverged",
            "the loss of batch 3 is inf",
            "lower lr",
        ),
    ],
)
def test_a_step_that_does_not_work_is_a_failure_that_says_why(work, node, step, code, what, to_do):
    text = work.plan(step)
    for _ in range(2):  # and again: nothing of the first try is left
        reply = node.handle(work.train(text))
        assert isinstance(reply, Failure)
        assert (reply.code, reply.stage, reply.node_id, reply.request_id) == (code, "train", "ward", "r")
        assert what in reply.what
        assert to_do in reply.to_do
        assert len(reply.reference) == 8
        assert reply.traceback.startswith("Traceback")
        assert reply.what.splitlines()[0] in reply.traceback
    assert isinstance(node.handle(work.train(work.plan())), TrainReply)


@pytest.mark.parametrize("entry", [0, 1])
def test_missing_values_in_the_data_are_blamed_on_the_data(work, entry):
    dataset = work.rows(8)
    dataset.tensors[entry][5, 0] = math.nan
    reply = work.node(dataset).handle(work.train(work.plan(), num_updates=None, epochs=1))
    assert reply.code == "training"
    assert reply.what.endswith(f"is nan, and entry {entry} of the batch is not finite itself")
    assert reply.to_do == "look for missing values in this node's data"


CROSS_ENTROPY = "return F.binary_cross_entropy(torch.sigmoid(self.model(x)), (y > 0).float())"


def test_a_loss_that_raises_for_missing_values_does_not_hide_them(work):
    dataset = work.rows(8)
    dataset.tensors[0][5, 0] = math.nan
    reply = work.node(dataset).handle(work.train(work.plan(CROSS_ENTROPY), num_updates=None, epochs=1))
    assert reply.code == "training"
    assert reply.what.endswith("; entry 0 of the batch is not finite itself")
    assert "failed with RuntimeError: all elements of input should be between 0 and 1" in reply.what
    assert reply.to_do == "look for missing values in this node's data"
    assert "training_step" in reply.traceback


def test_a_loss_that_raises_for_a_model_that_diverged(work, node):
    diverge = "if hasattr(self, 'seen'):\n    self.model.weight.data.fill_(float('nan'))\nself.seen = True\n"
    reply = node.handle(work.train(work.plan(diverge + CROSS_ENTROPY)))
    assert reply.code == "diverged"
    assert reply.what.startswith("batch 2 failed with RuntimeError: ")
    assert reply.what.endswith("; by then 'model.weight' holds values that are not finite")
    assert reply.to_do == "lower lr, or set clip_norm"


def test_a_model_that_is_not_finite_after_the_last_step_is_not_sent(work, node):
    reply = node.handle(work.train(work.plan("return self.model(x).mean() * 1e38"), num_updates=1, lr=1e10))
    assert reply.code == "diverged"
    assert "after the last step, 'model.weight' holds values that are not finite" in reply.what
    assert "lower lr" in reply.to_do


def test_large_finite_weights_are_no_failure(work, node):
    # Their sum overflows float32.
    text = work.plan("return 0 * self.model(x).mean()", model="nn.Linear(3, 1)")
    state = {name: torch.full_like(tensor, 3e38) for name, tensor in work.initial(text).items()}
    step = text.model_copy(update={"text": text.text.replace("0 * self.model(x).mean()", "0 * self.model.bias.sum()")})
    assert isinstance(node.handle(work.train(step, state)), TrainReply)


def test_a_device_that_is_not_there(work, node):
    reply = node.handle(work.train(work.plan(), device="cuda:77"))
    assert (reply.code, reply.what) == ("config", "device 'cuda:77' is not there at this node")
    assert "auto" in reply.to_do
    assert node.handle(work.train(work.plan(), device="toaster")).what == "device 'toaster' is not there at this node"


# ---- randomness


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


DRAWS = "x = x + torch.rand(()) + random.random() + np.random.random()\n"


@pytest.mark.parametrize("ending", ["return F.mse_loss(self.model(x), y)", "raise ValueError('no')", "sys.exit()"])
@pytest.mark.parametrize("ask", ["train", "check"])
def test_global_generators_are_as_before(work, node, ending, ask):
    text = work.plan(DRAWS + ending)
    before = states()
    node.handle(getattr(work, ask)(text))
    assert states() == before


@pytest.mark.parametrize("ending", ["return self.model(x)", "raise ValueError('no')"])
def test_global_generators_are_as_before_an_evaluation(work, node, ending):
    more = f"""
        def predict(self, x):
            x = x + torch.rand(()) + random.random() + np.random.random()
            {ending}
    """
    before = states()
    node.handle(work.evaluate(work.plan(more=more), metrics=("mse",)))
    assert states() == before


def test_draws_depend_on_seed_round_and_node_alone(work):
    text = work.plan(DRAWS + "return F.mse_loss(self.model(x), y)")

    def loss(name="ward", round_index=1, seed=3):
        torch.manual_seed(random.randrange(2**30))
        (node,) = simulate({name: work.rows(10)}).each_node()
        request = work.train(text, round_index=round_index).model_copy(update={"seed": seed})
        return trained(node, request).loss

    assert loss() == loss()
    assert len({loss(), loss(name="other"), loss(round_index=2), loss(seed=4)}) == 4


# ---- what a node keeps over rounds


def adam_loop(state, dataset, requests):
    model = linear(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for request in requests:
        loop(model, optimizer, dataset, order(request, len(dataset)))
    return model


@pytest.mark.parametrize("args", [{"lr": 0.05}, {}])
def test_two_rounds_of_a_kept_adam_are_one_loop(work, node, clone, args):
    text, dataset = work.plan(optimizer="torch.optim.Adam(self.parameters(), lr=0.05)"), work.rows(10)
    first = work.train(text, optimizer_state="kept", **args)
    middle = clone(trained(node, first).tensors)
    # Something else in between, on the same workbench.
    trained(node, work.train(text, num_updates=3, lr=0.5).model_copy(update={"experiment_id": "another"}))
    second = work.train(text, middle, round_index=2, optimizer_state="kept", **args)
    assert_same(trained(node, second).tensors, adam_loop(first.tensors, dataset, [first, second]))


def test_a_fresh_optimizer_forgets_its_moments(work, node, clone):
    text = work.plan(optimizer="torch.optim.Adam(self.parameters(), lr=0.05)")
    middle = clone(trained(node, work.train(text)).tensors)
    second = work.train(text, middle, round_index=2)
    assert_same(trained(node, second).tensors, adam_loop(middle, work.rows(10), [second]))


@pytest.mark.parametrize(
    "optimizer",
    [
        "torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, nesterov=True)",
        "torch.optim.AdamW(self.parameters(), lr=0.01, amsgrad=True)",
        "torch.optim.NAdam(self.parameters(), lr=0.01)",
        "torch.optim.RMSprop(self.parameters(), lr=0.01, momentum=0.5, centered=True)",
        "torch.optim.Adagrad(self.parameters(), lr=0.01)",
        "torch.optim.ASGD(self.parameters(), lr=0.01)",
        "torch.optim.Rprop(self.parameters(), lr=0.01)",
    ],
)
def test_kept_states_of_torchs_optimizers_go_on(work, node, clone, optimizer):
    text = work.plan(optimizer=optimizer)
    whole = clone(trained(node, work.train(text, num_updates=6, optimizer_state="kept")).tensors)
    once = clone(trained(node, work.train(text, num_updates=3, optimizer_state="kept")).tensors)
    twice = trained(node, work.train(text, once, round_index=2, num_updates=3, optimizer_state="kept")).tensors
    for name, tensor in whole.items():
        assert torch.equal(twice[name], tensor), name


def test_a_node_that_kept_nothing_says_so(work, node):
    text = work.plan(optimizer="torch.optim.Adam(self.parameters(), lr=0.05)")
    assert trained(node, work.train(text, optimizer_state="kept")).notes == ()
    newcomer = work.node(work.rows(10))
    reply = trained(newcomer, work.train(text, round_index=4, optimizer_state="kept"))
    assert reply.notes == ("this node has kept nothing of earlier rounds, and starts afresh",)


def test_going_back_a_round_takes_the_state_of_then(work, node, clone):
    text = work.plan(optimizer="torch.optim.Adam(self.parameters(), lr=0.05)")
    state, after = work.initial(text), {}
    for number in (1, 2, 3):
        state = clone(trained(node, work.train(text, state, round_index=number, optimizer_state="kept")).tensors)
        after[number] = state
    again = trained(node, work.train(text, after[2], round_index=3, optimizer_state="kept"))
    for name, tensor in after[3].items():
        assert torch.equal(again.tensors[name], tensor)


@pytest.mark.parametrize("ask", ["train", "check"])
def test_an_optimizer_that_cannot_be_kept_is_refused(work, node, ask):
    more = """
        class Odd(torch.optim.SGD):
            def step(self):
                super().step()
                for state in self.state.values():
                    state["curve"] = [1, 2]
    """
    text = work.plan(optimizer="Plan.Odd(self.parameters(), lr=0.1, momentum=0.9)", more=more)
    reply = node.handle(getattr(work, ask)(text, optimizer_state="kept"))
    what = reply.what if ask == "train" else reply.items[-1].detail
    assert "the state of Odd cannot be kept over rounds" in what
    assert isinstance(node.handle(work.train(text)), TrainReply)


def test_the_state_of_lbfgs_is_refused():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.LBFGS([parameter])

    def closure():
        optimizer.zero_grad()
        loss = (parameter**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(PlanError, match="the state of LBFGS cannot be kept over rounds"):
        pack_optimizer(optimizer)


@pytest.mark.parametrize("ask", ["train", "check"])
def test_lbfgs_is_refused_before_it_is_used(work, node, ask):
    text = work.plan(optimizer="torch.optim.LBFGS(self.parameters())")
    reply = node.handle(getattr(work, ask)(text, work.initial(work.plan())))
    what = f"{reply.what}. {reply.to_do}" if ask == "train" else reply.items[-1].detail
    assert "LBFGS, which computes the loss several times a step" in what
    assert "SGD" in what


NORM = "nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))"


def test_statistics_stay_at_the_node(work, node, clone):
    text = work.plan(model=NORM)
    first = clone(trained(node, work.train(text, buffers="local")).tensors)
    own = {name: tensor for name, tensor in first.items() if "running" in name or "num_batches" in name}
    assert len(own) == 3
    # What the others' mean would bring must not matter: neither in training nor in evaluation.
    averaged = {name: torch.full_like(tensor, 9) if name in own else tensor for name, tensor in first.items()}
    second = work.train(text, averaged, round_index=2, buffers="local")
    unspoilt = work.train(text, first, round_index=2, buffers="local")
    here = clone(trained(node, second).tensors)
    node.handle(work.train(text, buffers="local"))  # round 1 again: round 2 is forgotten
    there = trained(node, unspoilt).tensors
    for name, tensor in here.items():
        assert torch.equal(there[name], tensor), name


def test_evaluation_uses_the_nodes_own_statistics(work, node, clone):
    text = work.plan(model=NORM)
    trained_here = clone(trained(node, work.train(text, buffers="local")).tensors)
    spoilt = {name: torch.full_like(t, 9) if "running" in name else t for name, t in trained_here.items()}
    found = node.handle(work.evaluate(text, spoilt, buffers="local")).metrics["loss"].value
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in trained_here.items()})
    x, y = work.rows(6, seed=1).tensors
    with torch.inference_mode():
        assert found == pytest.approx(F.mse_loss(model(x), y).item(), rel=1e-6)


def test_batches_need_not_be_tuples_of_tensors(work):
    samples = [{"x": torch.full((3,), float(k)), "y": torch.ones(1)} for k in range(5)]
    step = "return F.mse_loss(self.model(batch['x']), batch['y'])"
    text = work.plan(step)
    text = text.model_copy(update={"text": text.text.replace("(self, x, y)", "(self, batch)")})
    reply = trained(work.node(samples), work.train(text, num_updates=None, epochs=1))
    assert (reply.num_samples, reply.num_updates) == (5, 2)


def test_gradients_are_freed_between_trainings(work, node):
    trained(node, work.train(work.plan()))
    plan = node._benches().get(work.train(work.plan())).plan
    assert all(parameter.grad is None for parameter in plan.parameters())


# ---- what a local rule is told, and when


class Recording(LocalRuleStep):
    """Notes all calls; its first pass trains, what it makes of the model is undone before the second."""

    name = "recording"
    keeps = True
    passes = ("before", "train")
    calls: ClassVar[list] = []

    def __init__(self, numbers):
        self.calls.append(("numbers", dict(numbers)))

    def begin(self, local):
        self.local = local
        self.begun = {name: tensor.clone() for name, tensor in local.live().items()}
        told = {"round": local.round, "kept": sorted(local.kept), "personal": sorted(local.kept_personal)}
        self.calls.append(("begin", told | {"kept_round": local.kept_round, "own": sorted(local.local_layers)}))

    def begin_pass(self, name):
        self.calls.append(("begin_pass", name))

    def adjust_gradients(self):
        self.calls.append(("step", self.local.parameters["model.weight"].grad.clone()))

    def end_pass(self, name, num_updates):
        self.calls.append(("end_pass", name, num_updates))
        if name == "before":
            with torch.no_grad():
                for key, tensor in self.local.live().items():
                    tensor.copy_(self.begun[key])

    def kept(self):
        return {"counter": torch.tensor(self.local.round)}

    def personal(self):
        return {"model.weight": torch.zeros(1, 3)}


@pytest.fixture
def recording(monkeypatch):
    Recording.calls.clear()
    monkeypatch.setitem(LOCAL_RULES, "recording", Recording)
    return Recording.calls


def test_a_rule_is_asked_in_order_and_passes_go_over_the_same_batches(work, node, recording):
    text, rule = work.plan(), LocalRule(name="recording", numbers={"a": 1.5})
    request = work.train(text, num_updates=3).model_copy(update={"local_rule": rule, "local_layers": ("model.bias",)})
    plain = trained(node, work.train(text, num_updates=3)).loss
    reply = trained(node, request)
    assert [call[0] for call in recording] == [
        "numbers", "begin", *(["begin_pass", *["step"] * 3, "end_pass"] * 2),
    ]  # fmt: skip
    assert recording[0][1] == {"a": 1.5}
    assert recording[1][1] == {"round": 1, "kept": [], "personal": [], "kept_round": 0, "own": ["model.bias"]}
    first, second = recording[2:7], recording[7:]
    assert (first[0][1], first[-1][1:]) == ("before", ("before", 3))
    assert (second[0][1], second[-1][1:]) == ("train", ("train", 3))
    for (_, one), (_, other) in zip(first[1:-1], second[1:-1], strict=True):
        assert torch.equal(one, other)
    assert (reply.num_updates, reply.loss) == (3, plain)  # of the pass "train" alone
    assert reply.tensors.keys() == {"model.weight"}


def test_a_rule_gets_back_what_it_kept(work, node, recording):
    text, rule = work.plan(), LocalRule(name="recording")
    for number in (1, 2, 5):
        trained(node, work.train(text, round_index=number).model_copy(update={"local_rule": rule}))
    told = [call[1] for call in recording if call[0] == "begin"]
    assert [(t["round"], t["kept_round"], t["kept"], t["personal"]) for t in told] == [
        (1, 0, [], []),
        (2, 1, ["counter"], ["model.weight"]),
        (5, 2, ["counter"], ["model.weight"]),
    ]


def test_shared_parameters_and_where_they_began():
    names = ("shared", "own", "frozen")
    parameters = {name: nn.Parameter(torch.ones(2, dtype=torch.float64)) for name in names}
    parameters["frozen"].requires_grad_(False)
    sent = {name: torch.zeros(2, dtype=torch.float64) for name in names}
    local = LocalRound(
        parameters=parameters,
        sent=sent,
        optimizer=torch.optim.SGD(parameters.values(), lr=0.1),
        round=1,
        local_layers=frozenset({"own"}),
    )
    assert local.shared == {"shared": parameters["shared"]}
    assert torch.equal(local.start("shared"), sent["shared"])
