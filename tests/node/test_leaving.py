"""What leaves: valid replies do, unchanged; whatever else a worker may give back does not. Files are written and read
by the safetensors library, so that not the same code judges itself."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from polyclinic.errors import LeavingRefused
from polyclinic.messages.replies import CheckItem, CheckReply, EvaluateReply, MetricValue
from polyclinic.messages.requests import CheckRequest, EvaluateRequest
from polyclinic.node import leaving
from polyclinic.node.policy import Policy
from tests.node.governed import SECRET, dataset, request, trained

MODEL = {
    "layer.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "layer.bias": torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64),
    "half": torch.tensor([1.0, -2.0], dtype=torch.float16),
    "brain": torch.tensor([[3.0]], dtype=torch.bfloat16),
    "seen": torch.tensor(17),
    "mask": torch.tensor([True, False]),
    "nothing": torch.empty(0, 5),
}


def value(number=0.75):
    return MetricValue(value=number, low=0.5, high=0.9, higher_is_better=True)


def evaluated(*names, **fields):
    metrics = {name: value() for name in names or ("accuracy",)}
    told = {"request_id": "r", "node_id": "n", "num_samples": 40, "metrics": metrics, "seconds": 1.0}
    return EvaluateReply(**told | fields)


def counts(classes=2, *, dtype=torch.int64):
    return {"accuracy/confusion": torch.full((classes, classes), 10, dtype=dtype)}


@pytest.fixture
def leave(tmp_path):
    """Checks a reply whose tensors are these; returns it, what left, and the tensors that left."""

    def leave(asked, reply, tensors=None, *, sent=MODEL, policy="", data=None, raw=None):
        path, of_request = tmp_path / "reply.safetensors", tmp_path / "sent.safetensors"
        save_file(sent, of_request)
        if tensors is not None:
            save_file(tensors, path)
        if raw is not None:
            path.write_bytes(raw)
        there = path if tensors is not None or raw is not None else None
        rules, of_data, out = Policy.parse(policy.encode()), data or dataset(), tmp_path / "out.safetensors"
        out.unlink(missing_ok=True)
        checked, left = leaving.check(rules, asked, reply, there, sent=of_request, dataset=of_data, into=out)
        return checked, left, load_file(out) if left else out.exists()

    return leave


# ---- what was asked for leaves


def test_a_trained_model_leaves_as_it_is(leave):
    reply = trained(notes=("this node starts afresh",))
    checked, left, out = leave(request(), reply, MODEL)
    assert checked == reply
    assert out.keys() == MODEL.keys()
    assert all(torch.equal(out[name], tensor) and out[name].dtype == tensor.dtype for name, tensor in MODEL.items())
    assert {(t.name, t.shape, t.bytes) for t in left} == {
        (name, tuple(tensor.shape), tensor.numel() * tensor.element_size()) for name, tensor in MODEL.items()
    }


def test_what_left_is_known_by_its_sha256(leave):
    import hashlib

    _, left, _ = leave(request(), trained(), MODEL)
    found = {t.name: (t.dtype, t.sha256) for t in left}
    assert found["layer.weight"] == ("F32", hashlib.sha256(MODEL["layer.weight"].numpy().tobytes()).hexdigest())
    assert found["seen"] == ("I64", hashlib.sha256((17).to_bytes(8, "little")).hexdigest())
    assert found["nothing"] == ("F32", hashlib.sha256(b"").hexdigest())


def test_local_layers_do_not_leave_and_must_not(leave):
    asked = request(local_layers=("layer.bias", "seen"))
    shared = {name: tensor for name, tensor in MODEL.items() if name not in ("layer.bias", "seen")}
    _, left, _ = leave(asked, trained(), shared)
    assert {t.name for t in left} == shared.keys()
    with pytest.raises(LeavingRefused, match="2 tensors were not asked for"):
        leave(asked, trained(), MODEL)


@pytest.mark.parametrize("how", ["half", "int8"])
def test_a_compressed_update_leaves_as_compression_makes_it(leave, how):
    from polyclinic.compression import compress

    update, _ = compress(how, MODEL, {name: torch.zeros_like(tensor) for name, tensor in MODEL.items()}, {})
    asked = request(args={"epochs": 1, "update_compression": how})
    _, _, out = leave(asked, trained(), update)
    assert out.keys() == update.keys()
    assert all(torch.equal(out[name], tensor) for name, tensor in update.items())
    with pytest.raises(LeavingRefused, match="is of type F32 instead of"):
        leave(asked, trained(), MODEL)


def test_counts_of_the_metrics_that_were_asked_for_leave(leave):
    asked = request(EvaluateRequest, metrics=("accuracy", "loss"))
    means = {f"loss/{name}": torch.tensor(2.0, dtype=torch.float64) for name in ("sum", "sum_of_squares")}
    means |= {f"loss/{name}": torch.tensor(40) for name in ("num_samples", "num_rows")}
    reply = evaluated("accuracy", "loss")
    checked, _, out = leave(asked, reply, counts() | means)
    assert checked == reply
    assert out.keys() == {"accuracy/confusion", *means}


def test_a_node_without_test_rows_has_no_counts(leave):
    asked = request(EvaluateRequest, metrics=("accuracy",))
    checked, left, _ = leave(asked, evaluated(num_samples=0, metrics={}), None, data=dataset(num_test=0))
    assert (checked.metrics, left) == ({}, ())


def test_a_check_leaves_with_its_loss(leave):
    items = (
        CheckItem(name="data", ok=True, detail="100 train"),
        CheckItem(name="one step", ok=True, detail="loss 0.7"),
    )
    reply = CheckReply(request_id="r", node_id="n", items=items)
    assert leave(request(CheckRequest), reply)[0] == reply


# ---- attacks


def without(name):
    return {other: tensor for other, tensor in MODEL.items() if other != name}


IMAGE = torch.rand(1, 64, 64)


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (MODEL | {SECRET: IMAGE}, "1 tensors were not asked for"),
        (MODEL | {f"{SECRET}{n}": torch.zeros(1) for n in range(50)}, "50 tensors were not asked for"),
        (without("layer.weight"), "1 tensors are missing, the first is 'layer.weight'"),
        (None, "7 tensors are missing"),
        (MODEL | {"layer.weight": IMAGE}, "'layer.weight' has another shape than (3, 4)"),
        (MODEL | {"layer.weight": torch.zeros(12)}, "'layer.weight' has another shape than (3, 4)"),
        (MODEL | {"layer.weight": torch.zeros(4, 3)}, "'layer.weight' has another shape than (3, 4)"),
        (
            MODEL | {"layer.weight": MODEL["layer.weight"].double()},
            "'layer.weight' is of type F64 instead of F32",
        ),
        (MODEL | {"mask": torch.zeros(2, dtype=torch.uint8)}, "'mask' is of type U8 instead of BOOL"),
        (MODEL | {"layer.weight": torch.full((3, 4), math.nan)}, "layer.weight: not all of its values are finite"),
        (MODEL | {"layer.bias": torch.tensor([0.0, -math.inf, 0.0]).double()}, "layer.bias: not all of its values"),
        (MODEL | {"half": torch.tensor([0.0, math.inf]).half()}, "half: not all of its values are finite"),
        (MODEL | {"brain": torch.tensor([[math.nan]]).bfloat16()}, "brain: not all of its values are finite"),
    ],
    ids=range(13),
)
def test_a_model_that_is_not_the_one_asked_for_stays(leave, tmp_path, tensors, what):
    with pytest.raises(LeavingRefused) as caught:
        leave(request(), trained(), tensors)
    assert what in caught.value.what
    assert "Jane" not in str(caught.value)  # a name that was made up by the plan may be anything
    assert not (tmp_path / "out.safetensors").exists()


def test_nan_at_the_end_of_a_large_tensor_is_found(leave):
    large = torch.zeros(3_000_001)
    large[-1] = math.nan
    with pytest.raises(LeavingRefused, match="not all of its values are finite"):
        leave(request(), trained(), {"w": large}, sent={"w": torch.zeros(3_000_001)})


def test_a_boolean_that_is_more_than_a_bit_stays(leave, tmp_path):
    save_file(MODEL, tmp_path / "x")
    raw = (tmp_path / "x").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    begin, _ = json.loads(raw[8:start])["mask"]["data_offsets"]
    changed = bytearray(raw)
    changed[start + begin] = 65
    with pytest.raises(LeavingRefused, match="mask: it is boolean"):
        leave(request(), trained(), raw=bytes(changed))


@pytest.mark.parametrize(
    ("reply", "tensors", "what"),
    [
        (evaluated(SECRET), counts(), "1 metrics were not asked for"),
        (evaluated("accuracy", "roc_auc"), counts(), "1 metrics were not asked for"),
        (evaluated(), counts() | {f"{SECRET}/x": torch.zeros(1)}, "1 tensors were not asked for"),
        (evaluated(), {"accuracy/confusion": IMAGE[0]}, "is of type F32 instead of I64"),
        (
            evaluated(),
            {"accuracy/confusion": torch.zeros(2, 3, dtype=torch.int64)},
            "another shape than (classes, classes)",
        ),
        (
            evaluated(),
            {"accuracy/confusion": torch.zeros(4, dtype=torch.int64)},
            "another shape than (classes, classes)",
        ),
        (evaluated(), counts(1001), "another shape than (classes, classes)"),
        (evaluated(), {"accuracy/confusion": torch.tensor([[1, 2], [3, -1]])}, "it counts, and is negative"),
        (evaluated(num_samples=10**40), counts(), "it counts more than there is"),
        (evaluated(seconds=math.nan), counts(), "it took no finite time"),
        (trained(), MODEL, "it is no answer to what was asked"),
        (evaluated(request_id="another"), counts(), "it is no answer to what was asked"),
    ],
    ids=range(12),
)
def test_an_evaluation_that_is_not_the_one_asked_for_stays(leave, reply, tensors, what):
    with pytest.raises(LeavingRefused) as caught:
        leave(request(EvaluateRequest, metrics=("accuracy",)), reply, tensors)
    assert what in caught.value.what
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stays(leave, loss):
    with pytest.raises(LeavingRefused, match="its loss is not finite"):
        leave(request(), trained(loss=loss), MODEL)


def test_an_update_of_few_rows_that_the_plan_has_chosen_stays(leave):
    assert leave(request(), trained(num_samples=10), MODEL)[1]
    with pytest.raises(LeavingRefused, match=r"it is made of 9 rows, not 10 or more .rule minimum-training-rows."):
        leave(request(), trained(num_samples=9), MODEL)


def test_numbers_without_end_stay(leave):
    with pytest.raises(LeavingRefused, match="counts more than there is"):
        leave(request(), trained(num_samples=10**300), MODEL)


def test_a_check_with_tensors_or_with_other_checks_stays(leave):
    reply = CheckReply(request_id="r", node_id="n", items=(CheckItem(name=SECRET, ok=True, detail=""),))
    with pytest.raises(LeavingRefused, match="it has checks that were not asked for") as caught:
        leave(request(CheckRequest), reply)
    assert "Jane" not in str(caught.value)
    with pytest.raises(LeavingRefused, match="it has tensors, and none were asked for"):
        leave(request(CheckRequest), reply.model_copy(update={"items": ()}), MODEL)


def test_a_reply_larger_than_allowed_stays(leave):
    big = {"w": torch.zeros(500_000)}
    leave(request(), trained(), big, sent=big, policy="[leaves]\nreply_mb = 2.1\n")
    with pytest.raises(LeavingRefused, match=r"it has 2.0 MB, at most 1.9 MB may leave"):
        leave(request(), trained(), big, sent=big, policy="[leaves]\nreply_mb = 1.9\n")


def test_metadata_and_order_of_a_file_do_not_travel(leave, tmp_path):
    save_file(MODEL, tmp_path / "x", metadata={"patient": SECRET})
    _, _, out = leave(request(), trained(), raw=(tmp_path / "x").read_bytes())
    assert SECRET.encode() not in (tmp_path / "out.safetensors").read_bytes()
    assert out.keys() == MODEL.keys()


# ---- the policy


def test_losses_and_texts_that_the_policy_keeps_do_not_leave(leave):
    policy = "[leaves]\nlosses = false\nlogs = false\n"
    checked, left, _ = leave(request(), trained(notes=("a note",)), MODEL, policy=policy)
    assert math.isnan(checked.loss)
    assert checked.notes == ()
    assert len(left) == len(MODEL)


def test_models_that_may_not_leave_do_not(leave):
    with pytest.raises(LeavingRefused, match="parameters-leave"):
        leave(request(), trained(), MODEL, policy="[leaves]\nparameters = false\n")


def test_metrics_that_may_not_leave_are_taken_out_with_their_counts(leave):
    asked = request(EvaluateRequest)
    means = {f"loss/{name}": torch.tensor(2.0, dtype=torch.float64) for name in ("sum", "sum_of_squares")}
    means |= {f"loss/{name}": torch.tensor(40) for name in ("num_samples", "num_rows")}
    reply, data = evaluated("accuracy", "loss"), dataset(classes=("no", "yes"))
    checked, _, out = leave(asked, reply, counts() | means, data=data, policy="[leaves]\nlosses = false\n")
    assert checked.metrics.keys() == out.keys() & {"accuracy"} | {"accuracy"}
    assert out.keys() == {"accuracy/confusion"}
    checked, left, there = leave(asked, reply, counts() | means, data=data, policy="[leaves]\nmetrics = []\n")
    assert (checked.metrics, left, there) == ({}, (), False)


@pytest.mark.parametrize(
    ("num_test", "told", "leaves"), [(9, 9, False), (9, 1000, False), (1000, 9, False), (10, 10, True)], ids=range(4)
)
def test_metrics_over_few_rows_stay_whatever_the_worker_says_how_many_there_are(leave, num_test, told, leaves):
    reply = evaluated(num_samples=told)
    checked, left, there = leave(
        request(EvaluateRequest, metrics=("accuracy",)), reply, counts(), data=dataset(num_test=num_test)
    )
    if leaves:
        assert checked == reply
    else:
        assert (checked.metrics, checked.num_samples, left, there) == ({}, 0, (), False)


def test_a_datasets_own_metric_may_have_any_name_and_the_counts_of_a_mean_or_a_function(leave):
    asked, own = request(EvaluateRequest), dataset(metric="dice")
    names = {"num_samples": torch.tensor(40), "num_rows": torch.tensor(40)}
    sums = {name: torch.tensor(1.0, dtype=torch.float64) for name in ("sum", "sum_of_squares")}
    of_mean = {f"dice/{name}": tensor for name, tensor in (names | sums).items()}
    assert leave(asked, evaluated("dice"), of_mean, data=own)[2].keys() == of_mean.keys()
    others = ("weight", "weighted_value", "weighted_variance")
    # Of few samples, the variance is not known.
    of_function = {f"dice/{name}": torch.tensor(math.nan, dtype=torch.float64) for name in others}
    of_function["dice/num_samples"] = torch.tensor(40)
    assert leave(asked, evaluated("dice"), of_function, data=own)[2].keys() == of_function.keys()
    with pytest.raises(LeavingRefused, match="metrics were not asked for"):
        leave(asked, evaluated("dice"), of_mean)


def test_notes_are_few_and_short(leave):
    checked = leave(request(), trained(notes=("n" * 1000,) * 1000), MODEL)[0]
    assert [len(note) for note in checked.notes] == [500] * 20


def test_it_needs_no_torch():
    import subprocess
    import sys

    program = (
        "import sys, polyclinic.node.leaving, polyclinic.node.rules, polyclinic.node.usage;"
        "sys.exit(bool({'torch', 'pandas', 'sklearn', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_mean_of_finite_values_may_overflow_and_is_still_finite(leave):
    large = {"w": torch.from_numpy(np.full(100_000, 3e38, dtype=np.float32))}
    _, left, _ = leave(request(), trained(), large, sent=large)
    assert len(left) == 1
