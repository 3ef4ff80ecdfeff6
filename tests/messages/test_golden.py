"""The bytes of each kind of message never change: other versions of Polyclinic must read them.

A kind that changes gets a new version (``train-request/2``) and a new file; then run this file as a program. It
writes the files that are missing and never touches one that is there.
"""

import math
from pathlib import Path

import pytest
import torch

from polyclinic.messages import codec, replies, requests
from polyclinic.messages.training_args import LearningRateSchedule, TrainingArgs

GOLDEN = Path(__file__).parent / "golden"

TENSORS = {
    "weight": torch.tensor([[1.5, -0.0], [math.nan, math.inf]]),
    "größe": torch.tensor([1.0, -2.0], dtype=torch.bfloat16),
    "half": torch.tensor([0.5], dtype=torch.float16),
    "double": torch.tensor([math.pi], dtype=torch.float64),
    "num_batches_tracked": torch.tensor(2**53 + 1),
    "mask": torch.tensor([True, False, True]),
    "small": torch.tensor([-128, 127], dtype=torch.int8),
    "empty": torch.empty(0, 3),
}
WORK = {
    "request_id": "r-1",
    "experiment_id": "e-1",
    "dataset_id": "heart",
    "plan": requests.PlanText(text="class Plan:\n    μ = 'Zürich'\n", class_name="Plan"),
    "model_args": {"features": 13, "rate": 0.1, "names": ["a", None, True], "big": 2**70},
    "training_args": TrainingArgs(
        batch_size=4, lr=0.05, num_updates=100, lr_schedule=LearningRateSchedule(kind="cosine", rounds=15)
    ),
    "seed": 42,
}
REPLY = {"request_id": "r-1", "node_id": "va"}
FIXED = [
    requests.SearchRequest(request_id="r-1", tags=("heart", "Herz ♥")),
    requests.ApprovalRequest(**WORK, message="Für die Studie", purpose="research", round_limit=15),
    requests.CheckRequest(**WORK, tensors=TENSORS),
    requests.TrainRequest(
        **WORK, round=3, local_rule=requests.LocalRule(name="proximal", numbers={"mu": 0.01}), tensors=TENSORS
    ),
    requests.EvaluateRequest(**WORK, round=0, split="test", metrics=("accuracy", "roc_auc"), tensors=TENSORS),
    replies.SearchReply(
        **REPLY,
        node_name="Long Beach VA",
        datasets=(
            replies.DatasetInfo(
                dataset_id="heart",
                name="Heart",
                dataset_kind="tabular",
                tags=("heart",),
                num_train=85,
                num_test=45,
                shape=(13,),
                features=("age", "chol"),
                classes=("0", "1"),
                problem="The file has vanished.",
            ),
        ),
    ),
    replies.ApprovalReply(
        **REPLY,
        state="pending",
        asked="3f2a",
        since=1.5e9,
        what="Plan waits for the data manager of Long Beach VA",
        to_do="polyclinic node approve va 3f2a",
    ),
    replies.CheckReply(**REPLY, items=(replies.CheckItem(name="plan", ok=False, detail="no optimizer"),)),
    replies.TrainReply(
        **REPLY, num_samples=85, num_updates=100, loss=math.nan, seconds=0.25, notes=("fresh",), tensors=TENSORS
    ),
    replies.EvaluateReply(
        **REPLY,
        num_samples=45,
        metrics={"accuracy": replies.MetricValue(value=0.75, low=-math.inf, high=1.0, higher_is_better=True)},
        seconds=0.125,
        tensors={"accuracy/right": torch.tensor(34)},
    ),
    replies.Failure(
        **REPLY, code="training", stage="train", what="the loss is nan", to_do="lower lr", reference="ab12"
    ),
]
BY_KIND = {message.kind: message for message in FIXED}


def file_of(kind):
    return GOLDEN / f"{kind.replace('/', '-')}.bin"


def encoded(message):
    return b"".join(codec.encode(message))


def bits(tensor):
    return tensor.dtype, tensor.shape, bytes(tensor.contiguous().untyped_storage())


def test_there_is_a_fixed_message_and_a_file_of_every_kind():
    assert list(BY_KIND) == list(codec.KINDS)
    assert {path.name for path in GOLDEN.glob("*.bin")} == {file_of(kind).name for kind in codec.KINDS}


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_bytes_never_change(kind):
    assert encoded(BY_KIND[kind]) == file_of(kind).read_bytes()


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_golden_file_is_read_to_the_last_bit(kind):
    got, expected = codec.decode(file_of(kind).read_bytes()), BY_KIND[kind]
    assert type(got) is type(expected)
    # By their text, in which NaN equals itself and -0.0 does not equal 0.0.
    assert repr(got) == repr(expected)
    assert list(got.tensors) == list(expected.tensors)
    assert [bits(t) for t in got.tensors.values()] == [bits(t) for t in expected.tensors.values()]


if __name__ == "__main__":
    for kind, message in BY_KIND.items():
        if not file_of(kind).exists():
            file_of(kind).write_bytes(encoded(message))
            print(f"wrote {file_of(kind).name}")
