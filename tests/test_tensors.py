import json
import mmap
import subprocess
import sys
import tracemalloc

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic import tensors
from polyclinic.errors import MessageError

DTYPES = [getattr(torch, torch_name) for torch_name, _ in tensors.DTYPES.values()]
FAST = settings(max_examples=60, deadline=None)

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda name: name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=4)


def from_bytes(dtype, shape, draw_bytes):
    """A tensor of arbitrary bits: NaNs with payloads and negative zeros too; for bool only 0 and 1."""
    tensor = torch.empty(shape, dtype=dtype)
    data = draw_bytes(tensor.numel() * tensor.element_size())
    if not data:
        return tensor
    if dtype == torch.bool:
        data = bytes(byte & 1 for byte in data)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape)


@st.composite
def any_tensor(draw):
    tensor = from_bytes(
        draw(st.sampled_from(DTYPES)), draw(shapes), lambda size: draw(st.binary(min_size=size, max_size=size))
    )
    how = draw(st.sampled_from(["plain", "transposed", "strided", "expanded", "requires_grad"]))
    if how == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, 1)
    if how == "strided" and tensor.dim():
        return tensor[::3]
    if how == "expanded":
        return tensor.expand(2, *tensor.shape)
    return tensor.requires_grad_(how == "requires_grad" and tensor.is_floating_point())


models = st.dictionaries(names, any_tensor(), max_size=5)


def file_of(model):
    return b"".join(tensors.encode(model))


def bits(tensor):
    """Independent of the code under test: the bytes that torch's own storage holds, in row-major order."""
    return bytes(tensor.detach().clone(memory_format=torch.contiguous_format).untyped_storage())


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits(got[name]) == bits(tensor), name


# ---- round trips


@FAST
@given(models)
def test_a_round_trip_keeps_names_order_and_bits(model):
    got = tensors.decode(bytearray(file_of(model)))
    assert list(got) == list(model)
    assert_same(got, model)


@FAST
@given(models)
def test_the_safetensors_library_reads_ours(model):
    assert_same(safetensors.torch.load(file_of(model)), model)


@FAST
@given(models)
def test_we_read_what_the_safetensors_library_writes(model):
    owned = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in model.items()}
    assert_same(tensors.decode(safetensors.torch.save(owned)), model)
    assert_same(tensors.decode(safetensors.torch.save(owned, metadata={"format": "pt"})), model)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0, 2), (2, 3)], ids=str)
def test_each_dtype_travels_in_each_kind_of_shape(dtype, shape):
    tensor = torch.ones(shape).to(dtype)
    got = tensors.decode(file_of({"t": tensor}))["t"]
    assert (got.dtype, got.shape) == (dtype, shape)
    assert torch.equal(got.double(), tensor.double())


def test_batch_norm_counters_travel():
    norm = torch.nn.BatchNorm1d(3)
    norm(torch.randn(5, 3))
    got = tensors.decode(file_of(norm.state_dict()))
    assert_same(got, norm.state_dict())
    assert got["num_batches_tracked"].shape == ()
    assert got["num_batches_tracked"].item() == 1


def test_views_of_one_element_and_negated_views_travel():
    strided, negated = torch.arange(4.0)[::4], torch.tensor([1 + 2j]).conj().imag
    got = tensors.decode(file_of({"strided": strided, "negated": negated}))
    assert got["strided"].tolist() == [0.0]
    assert got["negated"].tolist() == [-2.0]


def test_num_bytes():
    assert tensors.num_bytes({"a": torch.zeros(3, 5), "b": torch.tensor(1, dtype=torch.int8)}) == 61


# ---- memory


def test_encode_hands_out_the_tensors_own_memory():
    model = {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.bfloat16)}
    _, a, b = tensors.encode(model)
    # Written after encoding, seen in the parts: nothing was copied.
    model["a"].fill_(1)
    model["b"].fill_(1)
    assert bytes(a) == b"\0\0\x80\x3f" * 3
    assert bytes(b) == b"\x80\x3f" * 2
    assert torch.frombuffer(a, dtype=torch.uint8).data_ptr() == model["a"].data_ptr()


def test_decode_of_a_writable_buffer_gives_views_of_it():
    buffer = bytearray(file_of({"a": torch.zeros(3), "b": torch.zeros(3, dtype=torch.uint8)}))
    start = torch.frombuffer(buffer, dtype=torch.uint8).data_ptr()
    got = tensors.decode(buffer)
    assert all(start <= tensor.data_ptr() < start + len(buffer) for tensor in got.values())
    buffer[-3:] = b"\1\2\3"
    assert got["b"].tolist() == [1, 2, 3]


def test_decode_of_constant_bytes_gives_writable_copies():
    data = file_of({"a": torch.zeros(3)})
    tensors.decode(data)["a"].fill_(7)
    assert tensors.decode(data)["a"].tolist() == [0, 0, 0]


def test_every_tensor_is_aligned_in_the_file():
    model = {f"t{i}": torch.ones(i % 3 + 1).to(dtype) for i, dtype in enumerate(DTYPES)}
    data = file_of(model)
    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    for name, tensor in model.items():
        assert (8 + size + entries[name]["data_offsets"][0]) % tensor.element_size() == 0


def test_load_file_maps_and_the_file_never_changes(tmp_path):
    path = tmp_path / "model.safetensors"
    written = file_of({"a": torch.arange(4096.0), "empty": torch.zeros(0)})
    path.write_bytes(written)
    got = tensors.load_file(path)
    got["a"].fill_(-1)
    assert got["a"].sum() == -4096
    assert path.read_bytes() == written
    assert tensors.load_file(path)["a"].sum() == torch.arange(4096.0).sum()


def test_load_file_shares_the_maps_memory(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": torch.arange(4096.0)}))
    maps = []
    real = mmap.mmap
    monkeypatch.setattr(tensors.mmap, "mmap", lambda *args, **kwargs: maps.append(real(*args, **kwargs)) or maps[0])
    got = tensors.load_file(path)["a"]
    begin = torch.frombuffer(maps[0], dtype=torch.uint8).data_ptr()
    assert begin <= got.data_ptr() < begin + len(maps[0])


@pytest.mark.parametrize("size", [0, 7])
def test_load_file_names_a_file_that_is_too_short(tmp_path, size):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"x" * size)
    with pytest.raises(MessageError, match=rf"model.safetensors is no safetensors file: {size} bytes"):
        tensors.load_file(path)


def test_load_file_of_a_damaged_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"a": torch.ones(4)})[:-1])
    with pytest.raises(MessageError, match="tensors take 16 bytes, 15 are there"):
        tensors.load_file(path)


# ---- what cannot be written


@pytest.mark.parametrize(
    ("name", "tensor", "text"),
    [
        ("w", torch.zeros(2, dtype=torch.complex64), "tensor 'w' has dtype complex64, which cannot travel"),
        ("w", torch.eye(2).to_sparse(), "tensor 'w' is sparse"),
        ("w", torch.empty(2, device="meta"), "tensor 'w' is sparse, without data"),
        ("w", torch.zeros([1] * 65), "more than 64 dimensions"),
        ("__metadata__", torch.zeros(1), "a tensor cannot travel as '__metadata__'"),
        ("w" * 513, torch.zeros(1), "a tensor cannot travel as 'wwww"),
        ("\ud800", torch.zeros(1), r"a tensor cannot travel as '\\ud800'"),
    ],
)
def test_encode_refuses_what_decode_would_not_read(name, tensor, text):
    with pytest.raises(MessageError, match=text) as caught:
        tensors.encode({name: tensor})
    assert caught.value.to_do


def test_encode_refuses_more_tensors_than_decode_reads():
    one = torch.zeros(0)
    with pytest.raises(MessageError, match="60000 tensors are more than can travel"):
        tensors.encode({str(number): one for number in range(60_000)})
    tensors.decode(file_of({str(number): one for number in range(10_000)}))


# ---- what cannot be read


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


FOUR = b"1234"
HUGE = 1 << 60
BAD = {
    "nothing": (b"", "at least 8 bytes, got 0"),
    "header past the end": (b"\xff" + bytes(7) + b"{}", "a tensor header of 255 bytes does not fit"),
    "header of 2^60": (HUGE.to_bytes(8, "little") + b"{}", "does not fit"),
    "header of 2^64 - 1": (b"\xff" * 8, "does not fit"),
    "no JSON": (raw(b"{"), "the header is no JSON"),
    "no UTF-8": (raw(b'{"\xff": 1}'), "the header is no JSON"),
    "UTF-16": (raw("{}".encode("utf-16")), "the header is no JSON"),
    "UTF-8 with a mark": (raw(b"\xef\xbb\xbf{}"), "the header is no JSON"),
    "deep nesting": (raw(b'{"a":' * 200_000), "the header is no JSON"),
    "a number of many digits": (raw(b'{"a":' + b"9" * 100_000 + b"}"), "the header is no JSON"),
    "NaN": (raw(b'{"a": NaN}'), "NaN is no JSON"),
    "too many values": (raw(b'{"a": [' + b"1," * 300_000 + b"1]}"), "more than 262144 values"),
    "a list": (raw([1]), "not a JSON object"),
    "the same name twice": (
        raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), FOUR),
        "a key stands twice",
    ),
    "the same field twice": (
        raw(b'{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', FOUR),
        "a key stands twice",
    ),
    "metadata that is no object": (raw({"__metadata__": 1}), "metadata are not texts"),
    "metadata that is no text": (raw({"__metadata__": {"a": 1}}), "metadata are not texts"),
    "an entry that is no object": (raw({"a": 1}), "exactly dtype, shape and data_offsets"),
    "an entry with more": (raw({"a": entry(more=1)}, FOUR), "exactly dtype, shape and data_offsets"),
    "an unknown dtype": (raw({"a": entry("C64")}, FOUR), "an unfit name or an unknown dtype"),
    "a dtype that is a list": (raw({"a": entry(["F32"])}, FOUR), "an unfit name or an unknown dtype"),
    "a long name": (raw({"a" * 513: entry()}, FOUR), "an unfit name"),
    "half a character": (raw({"\ud800": entry()}, FOUR), "an unfit name"),
    "a negative size": (raw({"a": entry(shape=[-1])}, FOUR), "not sizes"),
    "a size that is a float": (raw({"a": entry(shape=[1.0])}, FOUR), "not sizes"),
    "a size that is true": (raw({"a": entry(shape=[True])}, FOUR), "not sizes"),
    "a shape that is a text": (raw({"a": {**entry(), "shape": "1"}}, FOUR), "not sizes"),
    "three offsets": (raw({"a": entry(offsets=(0, 4, 4))}, FOUR), "not sizes"),
    "65 dimensions": (raw({"a": entry(shape=[1] * 65)}, FOUR), "not sizes"),
    "a size of 2^60": (raw({"a": entry(shape=[HUGE], offsets=(0, 4 * HUGE))}), "not sizes"),
    "2^52 values that are not there": (raw({"a": entry(shape=[1 << 50], offsets=(0, 1 << 52))}), "take"),
    "a product of sizes that overflows": (raw({"a": entry(shape=[1 << 32, 1 << 32])}, FOUR), "too large"),
    "an empty shape that overflows": (raw({"a": entry(shape=[1 << 52, 1 << 52, 0], offsets=(0, 0))}), "too large"),
    "offsets and shape that differ": (raw({"a": entry(shape=[2])}, FOUR), "offsets do not match its shape"),
    "offsets the wrong way round": (raw({"a": entry(offsets=(4, 0))}, FOUR), "offsets do not match its shape"),
    "overlapping": (raw({"a": entry(), "b": entry()}, FOUR), "overlap or leave gaps"),
    "a gap": (raw({"a": entry(), "b": entry(offsets=(5, 9))}, FOUR * 3), "overlap or leave gaps"),
    "not from the start": (raw({"a": entry(offsets=(1, 5))}, b"12345"), "overlap or leave gaps"),
    "bytes after the end": (raw({"a": entry()}, FOUR + b"x"), "tensors take 4 bytes, 5 are there"),
    "bytes and no tensor": (raw({}, b"x"), "tensors take 0 bytes, 1 are there"),
    "a boolean of 2": (raw({"a": entry("BOOL", offsets=(0, 1))}, b"\2"), "other bytes than 0 and 1"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("buffer", [bytes, bytearray], ids=["bytes", "bytearray"])
def test_bad_bytes_are_refused(what, buffer):
    data, text = BAD[what]
    with pytest.raises(MessageError, match=text):
        tensors.decode(buffer(data))


@pytest.mark.parametrize("what", ["header of 2^60", "2^52 values that are not there", "a size of 2^60"])
def test_lengths_that_are_only_claimed_allocate_nothing(what):
    tracemalloc.start()
    try:
        with pytest.raises(MessageError):
            tensors.decode(BAD[what][0])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@FAST
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_arbitrary_bytes(header, data):
    for candidate in (header, raw(header, data)):
        try:
            tensors.decode(candidate)
        except MessageError:
            continue


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
sizes = st.integers(-1, 9) | st.sampled_from([1 << 31, 1 << 53, 1 << 63, HUGE])
near_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*tensors.DTYPES, "F8_E4M3"]) | json_values,
        "shape": st.lists(sizes, max_size=3) | json_values,
        "data_offsets": st.lists(sizes, min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=5), near_entries, max_size=3), st.binary(max_size=30))
def test_headers_that_are_nearly_right(header, data):
    candidate = raw(header, data)
    try:
        got = tensors.decode(candidate)
    except MessageError:
        return
    # What we take, the safetensors library must take as well, and read the same.
    assert_same(safetensors.torch.load(candidate), got)


@FAST
@given(models, st.data())
def test_damaged_files(model, data):
    good = bytearray(file_of(model))
    position = data.draw(st.integers(0, len(good) - 1))
    good[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        tensors.decode(good)
    except MessageError:
        return


@FAST
@given(models, st.data())
def test_every_truncation_is_noticed(model, data):
    good = file_of(model)
    with pytest.raises(MessageError):
        tensors.decode(good[: data.draw(st.integers(0, len(good) - 1))])


def test_parse_json_takes_constants_only_on_request():
    assert tensors.parse_json(b"[Infinity]", constants=True) == [float("inf")]
    with pytest.raises(MessageError, match="Infinity is no JSON"):
        tensors.parse_json(b"[Infinity]")


@given(json_values)
def test_num_json_values_is_never_too_low(value):
    def count(inner):
        if isinstance(inner, dict):
            return 1 + sum(map(count, inner.values()))
        return 1 + sum(map(count, inner)) if isinstance(inner, list) else 1

    assert tensors.num_json_values(json.dumps(value).encode()) >= count(value)


def test_importing_does_not_import_torch():
    program = "import sys, polyclinic.tensors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
