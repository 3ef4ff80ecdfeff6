import json
import subprocess
import sys
import traceback
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic import tensors
from polyclinic.errors import MessageError
from polyclinic.messages import codec, replies, requests
from polyclinic.messages.training_args import LearningRateSchedule, TrainingArgs

GOLDEN = {path.stem: path.read_bytes() for path in (Path(__file__).parent / "golden").glob("*.bin")}
FAST = settings(max_examples=40, deadline=None)
DTYPES = [getattr(torch, torch_name) for torch_name, _ in tensors.DTYPES.values()]

# ---- any message of any kind

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
identifiers = texts.filter(bool)
floats = st.floats()
counts = st.integers(1, 2**63)
words = st.lists(texts, max_size=3).map(tuple)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
schedules = st.builds(
    LearningRateSchedule,
    kind=st.sampled_from(["step", "exponential", "cosine"]),
    every=counts,
    factor=st.floats(0, 1, exclude_min=True),
    rounds=counts,
    final=st.floats(0, 1),
)
steps = st.sampled_from(["epochs", "num_updates"]).flatmap(lambda key: counts.map(lambda number: {key: number}))
training_args = st.builds(
    lambda how_long, **rest: TrainingArgs(**how_long, **rest),
    steps,
    batch_size=counts,
    lr=st.floats(0, exclude_min=True, allow_infinity=False),
    optimizer_state=st.sampled_from(["fresh", "kept"]),
    buffers=st.sampled_from(["averaged", "local"]),
    device=texts,
    clip_norm=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    lr_schedule=st.none() | schedules,
    seed=st.none() | st.integers(0),
    drop_last=st.booleans(),
)


@st.composite
def models(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
    model = {}
    for name in draw(st.lists(names, max_size=4, unique=True)):
        dtype, shape = draw(st.sampled_from(DTYPES)), draw(st.lists(st.integers(0, 3), max_size=3))
        raw = torch.from_numpy(rng.integers(0, 256, max(1, 8 * int(np.prod(shape))), dtype=np.uint8))
        # Random bits, so that NaNs with payloads and subnormal numbers are among them.
        flat = (raw % 2).to(torch.bool) if dtype == torch.bool else raw.view(dtype) if len(raw) > 1 else raw.to(dtype)
        tensor = flat[: int(np.prod(shape))].clone().reshape(shape)
        if draw(st.booleans()) and tensor.dim() > 1:
            tensor = tensor.transpose(0, 1)
        model[name] = tensor.requires_grad_(draw(st.booleans()) and tensor.is_floating_point())
    return model


work = {
    "request_id": identifiers,
    "experiment_id": identifiers,
    "dataset_id": identifiers,
    "plan": st.builds(requests.PlanText, text=texts, class_name=texts),
    "model_args": st.dictionaries(texts, json_values, max_size=3),
    "training_args": training_args,
    "seed": st.integers(),
    "tensors": models(),
}
reply = {"request_id": identifiers, "node_id": identifiers}
infos = st.builds(
    replies.DatasetInfo,
    dataset_id=identifiers,
    name=texts,
    dataset_kind=texts,
    tags=words,
    num_train=st.integers(),
    num_test=st.integers(),
    shape=st.lists(st.integers(), max_size=3).map(tuple),
    features=words,
    classes=words,
    problem=texts,
)
values = st.builds(
    replies.MetricValue, value=floats, low=floats, high=floats, higher_is_better=st.booleans(), exact=st.booleans()
)
rules = st.builds(requests.LocalRule, name=texts, numbers=st.dictionaries(texts, floats, max_size=2))
MESSAGES = {
    requests.SearchRequest: {"request_id": identifiers, "tags": words},
    requests.CheckRequest: work,
    requests.ApprovalRequest: {
        **work,
        "message": texts,
        "purpose": texts,
        "round_limit": st.none() | counts,
    },
    requests.TrainRequest: {**work, "round": counts, "local_rule": st.none() | rules},
    requests.EvaluateRequest: {
        **work,
        "round": st.integers(0),
        "split": st.sampled_from(["train", "test"]),
        "metrics": st.none() | words,
    },
    replies.SearchReply: {**reply, "node_name": texts, "datasets": st.lists(infos, max_size=2).map(tuple)},
    replies.ApprovalReply: {
        **reply,
        "state": st.sampled_from(["approved", "pending", "rejected", "revoked"]),
        "since": floats,
        **dict.fromkeys(["asked", "what", "to_do"], texts),
    },
    replies.CheckReply: {
        **reply,
        "items": st.lists(st.builds(replies.CheckItem, name=texts, ok=st.booleans(), detail=texts), max_size=2).map(
            tuple
        ),
    },
    replies.TrainReply: {
        **reply,
        "num_samples": counts,
        "num_updates": counts,
        "loss": floats,
        "seconds": floats,
        "notes": words,
        "tensors": models(),
    },
    replies.EvaluateReply: {
        **reply,
        "num_samples": st.integers(0),
        "metrics": st.dictionaries(texts, values, max_size=2),
        "seconds": floats,
        "tensors": models(),
    },
    replies.Failure: {**reply, **dict.fromkeys(["code", "stage", "what", "to_do", "reference", "traceback"], texts)},
}


def encoded(message):
    return b"".join(codec.encode(message))


def bits(tensor):
    return (
        tensor.dtype,
        tensor.shape,
        bytes(tensor.detach().clone(memory_format=torch.contiguous_format).untyped_storage()),
    )


def assert_same(got, expected):
    assert type(got) is type(expected)
    # By their text, in which NaN equals itself and -0.0 does not equal 0.0; tensors are not in it.
    assert repr(got) == repr(expected)
    assert list(got.tensors) == list(expected.tensors)
    assert [bits(t) for t in got.tensors.values()] == [bits(t) for t in expected.tensors.values()]


def test_every_kind_is_tested():
    assert set(MESSAGES) == set(codec.KINDS.values())


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@FAST
@given(data=st.data())
def test_a_round_trip_keeps_every_field_and_every_bit(cls, data):
    message = data.draw(st.builds(cls, **MESSAGES[cls]))
    whole = encoded(message)
    assert_same(codec.decode(whole), message)
    assert_same(codec.decode(bytearray(whole)), message)
    # One message has one spelling.
    assert encoded(codec.decode(whole)) == whole


# ---- closed, frozen, versioned


@pytest.mark.parametrize("kind", GOLDEN)
def test_messages_are_frozen(kind):
    message = codec.decode(GOLDEN[kind])
    with pytest.raises(ValidationError, match="frozen"):
        message.request_id = "other"
    with pytest.raises(ValidationError, match="frozen"):
        message.tensors = {}


def split(whole):
    """(header as a dict, the tensors' bytes)."""
    size = int.from_bytes(whole[4:8], "little")
    return json.loads(whole[8 : 8 + size]), whole[8 + size :]


def join(header, body, *, magic=b"PLYC"):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return magic + len(text).to_bytes(4, "little") + text + body


def paths(value, here=()):
    """Every place in a header, the whole first."""
    yield here
    if isinstance(value, dict):
        for key in value:
            yield from paths(value[key], (*here, key))
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from paths(value[number], (*here, number))


def replaced(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


OPEN = {"model_args", "numbers", "metrics"}


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_field_more_is_refused_everywhere(kind):
    header, body = split(GOLDEN[kind])
    objects = [path for path in paths(header) if not OPEN & set(path)]
    for path in objects:
        inner = header
        for step in path:
            inner = inner[step]
        if isinstance(inner, dict):
            more = replaced(header, path, {**inner, "more": 1})
            with pytest.raises(MessageError, match=r"with unfit fields: .*more"):
                codec.decode(join(more, body))


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_field_less_is_refused_or_has_a_default(kind):
    header, body = split(GOLDEN[kind])
    for field in header.keys() - {"kind", "minor"}:
        info = codec.KINDS[header["kind"]].model_fields[field]
        less = join({key: value for key, value in header.items() if key != field}, body)
        if info.is_required():
            with pytest.raises(MessageError, match=f"with unfit fields: {field}$"):
                codec.decode(less)
        else:
            codec.decode(less)


def test_the_constructor_is_closed_and_strict():
    with pytest.raises(ValidationError, match="Extra inputs"):
        requests.SearchRequest(request_id="r", more=1)
    with pytest.raises(ValidationError, match="num_samples"):
        replies.TrainReply(request_id="r", node_id="n", num_samples="3", num_updates=1, loss=0.0, seconds=0.0)


@pytest.mark.parametrize("kind", codec.KINDS)
def test_another_version_is_named_with_the_one_that_is_read(kind):
    name = kind.partition("/")[0]
    with pytest.raises(MessageError, match=f"a message of kind '{name}/99'; this Polyclinic reads '{kind}'") as caught:
        codec.decode(join({"kind": f"{name}/99", "anything": [1]}, b""))
    assert "same major version" in caught.value.to_do


BAD = {
    "nothing": (b"", "these bytes are no message"),
    "seven bytes": (b"PLYC\0\0\0", "these bytes are no message"),
    "another mark": (join({"kind": "search-request/1"}, b"", magic=b"plyc"), "these bytes are no message"),
    "a header of 4 GB": (b"PLYC\xff\xff\xff\xff{}", "a message header of 4294967295 bytes does not fit"),
    "a header past the end": (b"PLYC\x03\0\0\0{}", "a message header of 3 bytes does not fit"),
    "no JSON": (join(b"{", b""), "the header is no JSON"),
    "no UTF-8": (join(b'{"kind": "\xff"}', b""), "the header is no JSON"),
    "UTF-16": (join(json.dumps({"kind": "search-request/1"}).encode("utf-16"), b""), "the header is no JSON"),
    "a list": (join([], b""), "names no kind"),
    "no kind": (join({}, b""), "names no kind"),
    "a kind that is no text": (join({"kind": ["search-request/1"]}, b""), "names no kind"),
    "an unknown kind": (join({"kind": "secret-request/1"}, b""), "a message of unknown kind 'secret-request/1'"),
    "a kind that is no kind": (join({"kind": "Mr Smith"}, b""), "a message of unknown kind .not shown"),
    "a version that is no number": (join({"kind": "search-request/Mr"}, b""), r"\(not shown.*reads 'search-request/1'"),
    "the kind of a class": (join({"kind": "os.system"}, b""), "unknown kind"),
    "a key twice": (join(b'{"kind":"search-request/1","kind":"failure/1"}', b""), "a key stands twice"),
    "tensors in the header": (
        join({"kind": "search-request/1", "request_id": "r", "tensors": {}}, b""),
        "tensors in it: they travel beside it",
    ),
    "deep lists": (join(b'{"kind":' + b"[" * 200_000, b""), "the header is no JSON"),
    "deep objects": (join(b'{"kind":' * 100_000, b""), "the header is no JSON"),
    "a number of many digits": (join(b'{"kind":' + b"9" * 100_000 + b"}", b""), "the header is no JSON"),
    "no tensors at all": (join({"kind": "search-request/1", "request_id": "r"}, b""), "at least 8 bytes, got 0"),
    "an empty identifier": (join({"kind": "search-request/1", "request_id": ""}, b""), "unfit fields: request_id"),
    "a long identifier": (join({"kind": "search-request/1", "request_id": "x" * 201}, b""), "unfit fields: request_id"),
    "half a character": (join({"kind": "search-request/1", "request_id": "\ud800"}, b""), "unfit fields"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("buffer", [bytes, bytearray], ids=["bytes", "bytearray"])
def test_bad_bytes_are_refused(what, buffer):
    data, text = BAD[what]
    with pytest.raises(MessageError, match=text):
        codec.decode(buffer(data))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training_args", "epochs"), 1),
        (("training_args", "num_updates"), None),
        (("training_args", "batch_size"), 0),
        (("training_args", "lr"), float("inf")),
        (("round",), 0),
        (("round",), "3"),
        (("round",), 3.0),
        (("plan", "text"), 3),
    ],
)
def test_values_out_of_range_are_refused_on_the_wire(path, value):
    header, body = split(GOLDEN["train-request-1"])
    with pytest.raises(MessageError, match=f"a TrainRequest with unfit fields: {path[0]}"):
        codec.decode(join(replaced(header, path, value), body))


# ---- fuzzing: a message or a MessageError, nothing else


def decode_or_refuse(data):
    try:
        return codec.decode(data)
    except MessageError:
        return None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.binary(max_size=60))
def test_arbitrary_bytes(header, body):
    decode_or_refuse(header)
    decode_or_refuse(b"PLYC" + header)
    decode_or_refuse(join(header, body))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_flipped_bits(kind, data):
    damaged = bytearray(GOLDEN[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    decode_or_refuse(damaged)


@pytest.mark.parametrize("kind", GOLDEN)
def test_every_truncation_is_refused(kind):
    for size in range(len(GOLDEN[kind])):
        with pytest.raises(MessageError):
            codec.decode(GOLDEN[kind][:size])


@pytest.mark.parametrize("kind", GOLDEN)
def test_bytes_behind_the_end_are_refused(kind):
    with pytest.raises(MessageError, match=r"bytes, .* are there"):
        codec.decode(GOLDEN[kind] + b"\0")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(GOLDEN)), st.sampled_from(sorted(GOLDEN)), st.data())
def test_pieces_of_two_messages(one, other, data):
    first = data.draw(st.integers(0, len(GOLDEN[one])))
    second = data.draw(st.integers(0, len(GOLDEN[other])))
    decode_or_refuse(GOLDEN[one][:first] + GOLDEN[other][second:])
    header, _ = split(GOLDEN[one])
    decode_or_refuse(join({**header, "kind": split(GOLDEN[other])[0]["kind"]}, split(GOLDEN[other])[1]))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_one_value_is_anything(kind, data):
    header, body = split(GOLDEN[kind])
    path = data.draw(st.sampled_from(sorted(paths(header), key=str)))
    got = decode_or_refuse(join(replaced(header, path, data.draw(json_values)), body))
    if got is not None:
        # What was taken can be sent on.
        assert_same(codec.decode(encoded(got)), got)


# ---- nothing of a message in an error


@pytest.mark.parametrize("kind", GOLDEN)
def test_errors_never_repeat_a_value(kind):
    header, body = split(GOLDEN[kind])
    secret = "Mr Smith, born 1950"
    shown = []
    for path in paths(header):
        for value in (secret, [secret], [[secret]]):
            try:
                codec.decode(join(replaced(header, path, value), body))
            except MessageError as err:
                # As a log shows it, with the errors that it came of.
                shown += traceback.format_exception(err)
    assert "with unfit fields" in "".join(shown)
    assert "Smith" not in "".join(shown)


def test_the_name_of_a_field_cannot_break_a_log():
    header, body = split(GOLDEN["search-request-1"])
    with pytest.raises(MessageError, match=r"unfit fields: a\\nINFO all is well\\x1b$"):
        codec.decode(join({**header, "a\nINFO all is well\x1b": 1}, body))


# ---- memory


def test_encode_copies_no_tensor_and_decode_of_a_writable_buffer_neither():
    sent = torch.zeros(1000)
    message = replies.TrainReply(
        request_id="r", node_id="n", num_samples=1, num_updates=1, loss=0.0, seconds=0.0, tensors={"w": sent}
    )
    parts = codec.encode(message)
    assert torch.frombuffer(parts[-1], dtype=torch.float32).data_ptr() == sent.data_ptr()
    buffer = bytearray(b"".join(parts))
    begin = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    got = codec.decode(buffer).tensors["w"]
    assert got.data_ptr() == begin + len(buffer) - 4000


def test_lengths_that_are_only_claimed_allocate_nothing():
    header, _ = split(GOLDEN["search-request-1"])
    claims = [
        BAD["a header of 4 GB"][0],
        join(header, (1 << 60).to_bytes(8, "little") + b"{}"),
        join(
            header, b"\x3e" + bytes(7) + b'{"a":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % ((1 << 52,) * 2)
        ),
    ]
    tracemalloc.start()
    try:
        for claim in claims:
            with pytest.raises(MessageError):
                codec.decode(claim)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


PEAK = """
import resource, sys
from polyclinic.errors import MessageError
from polyclinic.messages import codec

item, number = sys.argv[1].encode(), int(sys.argv[2])
header = b'{"kind":"search-request/1","request_id":"r","tags":[' + b",".join([item] * number) + b"]}"
message = b"PLYC" + len(header).to_bytes(4, "little") + header
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    codec.decode(message)
except MessageError:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KB on Linux only")
@pytest.mark.parametrize(
    ("item", "number", "at_most_mb"),
    [("[]", 2_700_000, 32), ("1", 4_000_000, 32), ("1", 100_000, 200)],
    ids=["8 MB of lists", "8 MB of numbers", "as many wrong values as are read"],
)
def test_a_header_of_many_values_takes_little_memory(item, number, at_most_mb):
    """8 MB of empty lists once took 3 GB to refuse."""
    program = [sys.executable, "-c", PEAK, item, str(number)]
    assert int(subprocess.run(program, capture_output=True, check=True).stdout) < at_most_mb


# ---- what cannot be sent

WORK = {
    "request_id": "r",
    "experiment_id": "e",
    "dataset_id": "d",
    "plan": requests.PlanText(text="", class_name=""),
    "training_args": TrainingArgs(epochs=1),
    "seed": 0,
}


@pytest.mark.parametrize(
    "value", [object(), np.int64(1), np.zeros(2), torch.zeros(2), "\ud800", b"\xff"], ids=lambda v: type(v).__name__
)
def test_model_args_that_are_no_json(value):
    with pytest.raises(MessageError, match="a CheckRequest holds a value that is not JSON") as caught:
        codec.encode(requests.CheckRequest(**WORK, model_args={"x": [value]}))
    assert "dicts with text keys" in caught.value.to_do


@pytest.mark.parametrize("value", ["x" * (9 << 20), [0] * 300_000], ids=["long text", "many numbers"])
def test_a_header_that_is_too_large_to_be_read_is_not_written(value):
    with pytest.raises(MessageError, match=r"the message header has \d+ bytes and about \d+ values") as caught:
        codec.encode(requests.CheckRequest(**WORK, model_args={"x": value}))
    assert "data belong in a dataset" in caught.value.to_do


def test_a_tensor_that_cannot_travel_is_named():
    message = requests.CheckRequest(**WORK, model_args={}, tensors={"fft": torch.zeros(2, dtype=torch.complex64)})
    with pytest.raises(MessageError, match="tensor 'fft' has dtype complex64"):
        codec.encode(message)


def test_importing_messages_does_not_import_torch():
    program = "import sys, polyclinic.messages.codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
