from contextlib import closing

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from polyclinic import Experiment, InProcessFederation, ProcessFederation, simulate
from polyclinic.compression import compress, expand
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.errors import AggregationError
from polyclinic.federation.places import create_nodes

HOWS = ("half", "int8")
numbers = st.floats(-1e6, 1e6, width=32)
models = hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(0, 4)), elements=numbers).map(torch.from_numpy)


def tensor(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


# ---- by hand


def test_eight_bits_by_hand():
    sent, trained = {"w": tensor(1.0, 1.0, 1.0)}, {"w": tensor(1.0 + 127, 1.0 - 63.4, 1.0)}
    update, lost = compress("int8", trained, sent, {})
    assert update["w"].dtype == torch.int8
    assert update["w"].tolist() == [127, -63, 0]
    assert update["w:scale"].item() == 1.0
    assert torch.allclose(lost["w"], tensor(0.0, -0.4, 0.0), atol=1e-5)
    assert expand("int8", update, sent)["w"].tolist() == [128.0, -62.0, 1.0]


def test_half_by_hand():
    sent, trained = {"w": tensor(0.0, 0.0)}, {"w": tensor(1 + 2**-12, 1e9)}
    update, lost = compress("half", trained, sent, {})
    assert update["w"].dtype == torch.float16
    assert update["w"].tolist() == [1.0, 65504.0]
    assert lost["w"].tolist() == [2**-12, float(np.float32(1e9) - np.float32(65504))]


def test_what_was_lost_is_sent_in_the_next_round():
    sent = {"w": tensor(0.0, 0.0)}
    update, lost = compress("int8", {"w": tensor(127.0, 0.4)}, sent, {})
    assert update["w"].tolist() == [127, 0]
    update, lost = compress("int8", {"w": tensor(127.0, 0.4)}, sent, lost)
    assert update["w"].tolist() == [127, 1]
    assert torch.allclose(lost["w"], tensor(0.0, -0.2), atol=1e-5)


@pytest.mark.parametrize("how", HOWS)
def test_a_model_that_did_not_change_is_received_as_it_is(how):
    sent = {"w": tensor(0.1, -0.2), "empty": torch.zeros(0)}
    update, lost = compress(how, sent, sent, {})
    assert all(torch.equal(expand(how, update, sent)[name], t) for name, t in sent.items())
    assert lost["w"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("how", HOWS)
def test_counters_and_tensors_that_were_not_sent_stay_as_they_are(how):
    trained = {"steps": tensor(7, dtype=torch.int64), "new": tensor(0.1)}
    update, lost = compress(how, trained, {"steps": tensor(6, dtype=torch.int64)}, {})
    assert update == trained
    assert lost == {}
    assert expand(how, update, {"steps": tensor(6, dtype=torch.int64)}) == trained


def test_none_is_the_model_itself():
    trained = {"w": tensor(1.0)}
    assert compress("none", trained, {"w": tensor(0.0)}, {}) == (trained, {})
    assert expand("none", trained, {}) == trained


# ---- what holds for all


@given(models, models, st.sampled_from(HOWS))
def test_sent_and_lost_are_the_change(trained, sent, how):
    if trained.shape != sent.shape:
        sent = torch.zeros_like(trained)
    update, lost = compress(how, {"w": trained}, {"w": sent}, {})
    received = expand(how, update, {"w": sent})["w"]
    exact = trained.double() - sent.double()
    size = max(exact.abs().max().item(), sent.abs().max().item(), 1e-30) if exact.numel() else 1.0
    assert (received.double() - sent.double() + lost["w"].double() - exact).abs().sum() <= 1e-6 * size * exact.numel()


@given(
    st.lists(hnp.arrays(np.float32, 5, elements=st.floats(-10, 10, width=32)), min_size=1, max_size=8),
    st.sampled_from(HOWS),
)
def test_over_rounds_all_that_was_sent_and_what_is_lost_at_last_are_all_changes(changes, how):
    nothing, lost, total = {"w": torch.zeros(5)}, {}, torch.zeros(5, dtype=torch.float64)
    for change in changes:
        update, lost = compress(how, {"w": torch.from_numpy(change)}, nothing, lost)
        total += expand(how, update, nothing)["w"].double()
    expected = np.sum(np.asarray(changes, dtype=np.float64), axis=0)
    assert np.allclose((total + lost["w"].double()).numpy(), expected, atol=1e-4)


def test_eight_bits_lose_at_most_half_a_step():
    torch.manual_seed(0)
    change = torch.randn(1000)
    update, lost = compress("int8", {"w": change}, {"w": torch.zeros(1000)}, {})
    assert lost["w"].abs().max() <= 0.501 * change.abs().max() / 127
    assert update["w"].nbytes == change.nbytes // 4


# ---- bad input


@pytest.mark.parametrize(
    ("how", "update"),
    [
        ("half", {"w": tensor(1.0, 2.0)}),
        ("half", {"w": tensor(1.0, dtype=torch.float16)}),
        ("int8", {"w": tensor(1, 2, dtype=torch.int8)}),
        ("int8", {"w": tensor(1, 2, dtype=torch.int8), "w:scale": tensor(1.0, 2.0)}),
        ("int8", {"w": tensor(1, 2, dtype=torch.int8), "w:scale": tensor(1, dtype=torch.int64)}),
    ],
    ids=["not compressed", "shape", "no scale", "two scales", "scale of integers"],
)
def test_an_update_that_is_not_compressed_so(how, update):
    with pytest.raises(AggregationError, match="'w'"):
        expand(how, update, {"w": tensor(0.0, 0.0)})


# ---- whole experiments


def heart(tmp_path, how, federation=None):
    return Experiment(
        BaselinePlan,
        model_args={"dataset": "fed_heart_disease"},
        tags=["fed_heart_disease"],
        federation=federation or simulate("fed_heart_disease"),
        training_args={"batch_size": 4, "lr": 0.003, "num_updates": 20, "update_compression": how},
        round_limit=3,
        folder=tmp_path / how,
        observers=[],
    )


@pytest.mark.parametrize("how", HOWS)
def test_the_model_is_near_the_one_without(tmp_path, how):
    plain, small = heart(tmp_path, "none"), heart(tmp_path, how)
    start = plain.model().state_dict()
    plain.run()
    small.run()
    for name, expected in plain.model().state_dict().items():
        moved = (expected - start[name]).abs().max()
        assert (small.model().state_dict()[name] - expected).abs().max() < 0.02 * moved + 1e-6
    rows = [sum(row.bytes for row in e.records[1].rows) for e in (plain, small)]
    assert rows[1] < rows[0]


@pytest.mark.parametrize("how", HOWS)
def test_processes_and_a_run_that_was_broken_off_give_the_same_bits(tmp_path, how):
    places = [tmp_path / "once", tmp_path / "twice"]
    for place in places:
        create_nodes(place, "fed_heart_disease", tags=["fed_heart_disease"])
    once = heart(tmp_path / "a", how, federation=InProcessFederation.at(places[0]))
    once.run()
    with closing(ProcessFederation(places[1], workers=1)) as federation:
        heart(tmp_path / "b", how, federation=federation).run(rounds=1)
        again = Experiment.load(tmp_path / "b" / how, federation=federation, observers=[])
        again.run()
    assert again.round == once.round == 3
    assert all(torch.equal(t, once.model().state_dict()[name]) for name, t in again.model().state_dict().items())
