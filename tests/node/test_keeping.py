"""What a node keeps of an experiment, what it does not, and how it is put back."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic.aggregators import LOCAL_RULES
from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule
from polyclinic.node.batches import round_order
from polyclinic.node.keeping import keeps_something

MODEL = "nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))"
HEAD = ("model.2.weight", "model.2.bias")
DITTO = LocalRule(name="ditto", numbers={"lam": 0.5})


def network(state):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    return net


def loop(net, request, dataset):
    """The request's steps by hand."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    parts = round_order(
        len(dataset), request.training_args, round_index=request.round, seed=request.seed, node_id="ward"
    )
    for rows in (rows for part in parts for rows in torch.split(part, request.training_args.batch_size)):
        x, y = dataset[rows]
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()


def trained(node, request, **changes):
    reply = node.handle(request.model_copy(update=changes))
    assert isinstance(reply, TrainReply), reply
    return {name: tensor.clone() for name, tensor in reply.tensors.items()}, reply.notes


def kept_files(node):
    return {} if node._temporary is None else {path.name for path in node._temporary.rglob("*") if path.is_file()}


# ---- whether


@pytest.mark.parametrize(
    ("args", "changes", "keeps"),
    [
        ({}, {}, False),
        ({"optimizer_state": "kept"}, {}, True),
        ({"buffers": "local"}, {}, True),
        ({}, {"local_layers": HEAD}, True),
        ({}, {"local_rule": LocalRule(name="proximal", numbers={"mu": 1.0})}, False),
        ({}, {"local_rule": LocalRule(name="of the future")}, False),
        *(({}, {"local_rule": LocalRule(name=name)}, rule.keeps) for name, rule in sorted(LOCAL_RULES.items())),
    ],
    ids=str,
)
def test_whether_there_is_anything_to_keep(work, args, changes, keeps):
    request = work.train(work.plan(model=MODEL), **args).model_copy(update=changes)
    assert keeps_something(request) == keeps


@pytest.mark.parametrize("changes", [{"local_layers": HEAD}, {"local_rule": DITTO}], ids=str)
def test_neither_a_check_nor_an_evaluation_keeps_anything(work, node, changes):
    text = work.plan(model=MODEL)
    reply = node.handle(work.check(text, buffers="local").model_copy(update=changes))
    assert [item.ok for item in reply.items] == [True] * 4
    node.handle(work.evaluate(text, buffers="local").model_copy(update=changes | {"fine_tune": 2}))
    assert not kept_files(node)
    # Nor does a check spoil what was kept.
    request = work.train(text, work.initial(text))
    trained(node, request, **changes)
    folder = node._temporary
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    node.handle(work.check(text).model_copy(update=changes))
    node.handle(work.evaluate(text).model_copy(update=changes | {"fine_tune": 2}))
    assert {path: path.read_bytes() for path in folder.rglob("*.safetensors")} == before
    assert len(before) == 1


# ---- local layers


def test_local_layers_stay_and_go_on(work, node):
    """Two rounds by hand: the head goes on from where it was, all else from what is sent."""
    text, dataset = work.plan(model=MODEL), work.rows(10)
    first = work.train(text)
    state, notes = trained(node, first, local_layers=HEAD)
    assert notes == ()
    assert state.keys() == work.initial(text).keys() - set(HEAD)
    net = network(work.initial(text))
    loop(net, first, dataset)
    assert all(torch.equal(state[f"model.{n}"], t) for n, t in net.state_dict().items() if f"model.{n}" in state)

    averaged = {name: tensor * 0.9 for name, tensor in state.items() if "num_batches" not in name}
    sent = work.initial(text) | averaged  # with the head that the experiment began with
    second = work.train(text, sent, round_index=2)
    again, _ = trained(node, second, local_layers=HEAD)
    begun = {name.removeprefix("model."): tensor for name, tensor in sent.items()}
    net.load_state_dict(begun | {n: t for n, t in net.state_dict().items() if f"model.{n}" in HEAD})
    loop(net, second, dataset)
    assert again.keys() == state.keys()
    for name, tensor in again.items():
        assert torch.equal(net.state_dict()[name.removeprefix("model.")], tensor), name
    # And the node judges what is sent with its own head.
    request = work.evaluate(text, sent | again, round_index=2).model_copy(update={"local_layers": HEAD})
    x, y = work.rows(6, seed=1).tensors
    with torch.inference_mode():
        assert node.handle(request).metrics["loss"].value == pytest.approx(F.mse_loss(net.eval()(x), y).item())


def test_local_layers_and_local_statistics_together(work, node):
    text = work.plan(model=MODEL)
    state, _ = trained(node, work.train(text, buffers="local"), local_layers=HEAD)
    assert {name for name in state if "running" in name} == {"model.1.running_mean", "model.1.running_var"}
    spoilt = work.initial(text) | {n: torch.full_like(t, 7) if "running" in n else t for n, t in state.items()}
    clean = work.initial(text) | state

    def second(sent):
        trained(node, work.train(text, buffers="local"), local_layers=HEAD)
        return trained(node, work.train(text, sent, round_index=2, buffers="local"), local_layers=HEAD)[0]

    one, other = second(spoilt), second(clean)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_node_that_joins_late_begins_with_the_layers_that_were_sent(work, node):
    text = work.plan(model=MODEL)
    request = work.train(text, round_index=4)
    state, notes = trained(node, request, local_layers=HEAD)
    assert notes == ("this node has kept nothing of earlier rounds, and starts afresh",)
    net = network(work.initial(text))
    loop(net, request, work.rows(10))
    assert torch.equal(state["model.0.weight"], net[0].weight)


@pytest.mark.parametrize("ask", ["train", "check"])
def test_a_layer_that_the_plan_has_not(work, node, ask):
    request = getattr(work, ask)(work.plan(model=MODEL)).model_copy(update={"local_layers": ("model.9.weight",)})
    reply = node.handle(request)
    what = reply.what if ask == "train" else reply.items[-1].detail
    assert "the plan has no tensor 'model.9.weight', which is to stay at the nodes" in what


# ---- models of a node's own


def test_a_personal_model_is_judged_unless_the_global_one_is_asked_for(work, node):
    text, dataset = work.plan(), work.rows(10)
    first = work.train(text)
    sent, _ = trained(node, first, local_rule=DITTO)
    request = work.evaluate(text, sent).model_copy(update={"local_rule": DITTO})
    loss = {}
    for personal in (True, False):
        loss[personal] = node.handle(request.model_copy(update={"personal": personal})).metrics["loss"].value
    own, shared = nn.Linear(3, 1), nn.Linear(3, 1)
    shared.load_state_dict({name.removeprefix("model."): tensor for name, tensor in sent.items()})
    own.load_state_dict({name.removeprefix("model."): tensor for name, tensor in first.tensors.items()})
    held = [parameter.detach().clone() for parameter in own.parameters()]
    optimizer = torch.optim.SGD(own.parameters(), lr=0.1)
    parts = round_order(10, first.training_args, round_index=1, seed=first.seed, node_id="ward")
    for rows in (rows for part in parts for rows in torch.split(part, 4)):
        x, y = dataset[rows]
        optimizer.zero_grad()
        term = sum((p - h).square().sum() for p, h in zip(own.parameters(), held, strict=True))
        (F.mse_loss(own(x), y) + 0.25 * term).backward()
        optimizer.step()
    x, y = work.rows(6, seed=1).tensors
    with torch.inference_mode():
        assert loss[True] == pytest.approx(F.mse_loss(own(x), y).item(), rel=1e-5)
        assert loss[False] == pytest.approx(F.mse_loss(shared(x), y).item(), rel=1e-5)
    assert loss[True] != pytest.approx(loss[False], rel=1e-3)


def test_before_a_node_has_trained_its_personal_model_is_the_one_that_is_sent(work, node):
    text = work.plan()
    plain = node.handle(work.evaluate(text)).metrics["loss"].value
    ditto = node.handle(work.evaluate(text).model_copy(update={"local_rule": DITTO})).metrics["loss"].value
    assert ditto == plain


# ---- fine-tuning


def test_fine_tuning_is_training_before_judging(work, node):
    text, dataset = work.plan(), work.rows(10)
    state = work.initial(text)
    # All rows in each batch, so that the order does not matter.
    found = node.handle(work.evaluate(text, state, batch_size=100).model_copy(update={"fine_tune": 6}))
    net = nn.Linear(3, 1)
    net.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(6):
        optimizer.zero_grad()
        F.mse_loss(net(dataset.tensors[0]), dataset.tensors[1]).backward()
        optimizer.step()
    x, y = work.rows(6, seed=1).tensors
    with torch.inference_mode():
        assert found.metrics["loss"].value == pytest.approx(F.mse_loss(net(x), y).item(), rel=1e-5)
    assert not kept_files(node)


def test_fine_tuning_begins_with_the_nodes_own_layers(work, node):
    text = work.plan(model=MODEL)
    state, _ = trained(node, work.train(text), local_layers=HEAD)
    request = work.evaluate(text, work.initial(text) | state, batch_size=100).model_copy(update={"local_layers": HEAD})
    losses = [
        node.handle(request.model_copy(update={"fine_tune": steps, "split": "train"})).metrics["loss"].value
        for steps in (0, 1, 20)
    ]
    assert losses[2] < losses[1]
    own = node.judged(request).state()
    assert not torch.equal(own["model.2.weight"], work.initial(text)["model.2.weight"])
    assert losses[0] == node.handle(request.model_copy(update={"split": "train"})).metrics["loss"].value
