"""Files of tensors that are made to deceive, and any change of a good one."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from polyclinic.errors import LeavingRefused, MessageError
from polyclinic.node import leaving
from polyclinic.node.policy import Policy
from polyclinic.node.tensor_file import PIECE_BYTES, UnfitValues, copy_checked, read_header
from tests.node.governed import SECRET, dataset, request, trained


def let_out(folder, into):
    """As a node does; the files are "reply" and "sent" in the folder."""
    reply, sent = folder / "reply", folder / "sent"
    return leaving.check(Policy(), request(), trained(), reply, sent=sent, dataset=dataset(), into=into)[1]


def raw_file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00" * 7,
        (1 << 62).to_bytes(8, "little") + b"{}",
        raw_file({"w": ONE}),  # no data
        raw_file({"w": ONE}, b"\x00" * 9),  # data that no tensor has
        raw_file({"w": ONE | {"data_offsets": [0, 4]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"data_offsets": [8, 16]}}, b"\x00" * 16),  # a gap
        raw_file({"w": ONE, "v": ONE}, b"\x00" * 8),  # two in one place
        raw_file({"w": ONE, "v": ONE | {"data_offsets": [4, 12]}}, b"\x00" * 12),
        raw_file(b'{"w":' + json.dumps(ONE).encode() + b',"w":' + json.dumps(ONE).encode() + b"}", b"\x00" * 8),
        raw_file({"w": ONE | {"shape": [1 << 60, 1 << 60]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"shape": [-2]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"shape": [2.0]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"shape": [1] * 65 + [2]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"dtype": "F8"}}, b"\x00" * 8),
        raw_file({"w": ONE | {"data_offsets": [-8, 0]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"data_offsets": [0, 1 << 60], "shape": [1 << 58]}}, b"\x00" * 8),
        raw_file({"w": ONE | {"more": SECRET}}, b"\x00" * 8),
        raw_file({"w": ONE, "__metadata__": {"a": 1}}, b"\x00" * 8),
        raw_file({"w" * 600: ONE}, b"\x00" * 8),
        raw_file(b"[]"),
        raw_file(b"{" * 1000),
        raw_file(b"[" * 100_000),
        raw_file(json.dumps({"w": ONE}).encode("utf-16"), b"\x00" * 8),
    ],
    ids=range(24),
)
def test_a_file_that_is_not_exactly_a_safetensors_file_stays(tmp_path, raw):
    (tmp_path / "reply").write_bytes(raw)
    save_file({"w": torch.zeros(2)}, tmp_path / "sent")
    with pytest.raises(LeavingRefused, match=r"its tensors are no safetensors file|were not asked for") as caught:
        let_out(tmp_path, tmp_path / "out")
    assert "Jane" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_becomes_shorter_while_it_is_looked_at_stays(tmp_path):
    path, target = tmp_path / "x", tmp_path / "out"
    save_file({"w": torch.zeros(1000)}, path)
    entries = copy.deepcopy(read_header(path))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UnfitValues, match="w: its file became shorter"):
        copy_checked(path, entries, ["w"], target, finite=True, at_least_0=False)
    assert not target.exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
def test_one_value_that_is_not_finite_is_found_in_the_last_piece(tmp_path, dtype, bad):
    path = tmp_path / "x"
    large = torch.zeros(PIECE_BYTES + 1, dtype=dtype)
    for wrong in (0.0, bad):
        large[-1] = wrong
        save_file({"w": large}, path)
        if math.isfinite(wrong):
            copy_checked(path, read_header(path), ["w"], tmp_path / "out", finite=True, at_least_0=False)
            assert torch.equal(load_file(tmp_path / "out")["w"], large)
        else:
            with pytest.raises(UnfitValues, match="w: not all of its values are finite"):
                copy_checked(path, read_header(path), ["w"], tmp_path / "out", finite=True, at_least_0=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_the_largest_and_the_smallest_values_are_finite(tmp_path, dtype):
    path, about = tmp_path / "x", torch.finfo(dtype)
    save_file({"w": torch.tensor([about.max, about.min, about.tiny, about.smallest_normal, -0.0], dtype=dtype)}, path)
    copy_checked(path, read_header(path), ["w"], tmp_path / "out", finite=True, at_least_0=False)


def test_all_bits_of_two_bytes_are_judged_as_torch_judges_them(tmp_path):
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        finite = torch.isfinite(bits.view(dtype))
        for wanted in (True, False):
            # One tensor for each few values, so that a wrong verdict on any shows.
            some = {
                str(n): part.view(dtype) for n, part in enumerate(bits[finite == wanted].split(1 if not wanted else 64))
            }
            path = tmp_path / "x"
            save_file(some, path)
            entries = read_header(path)
            if wanted:
                copy_checked(path, entries, some, tmp_path / "out", finite=True, at_least_0=False)
                continue
            for name in list(some)[::97]:
                with pytest.raises(UnfitValues):
                    copy_checked(path, entries, [name], tmp_path / "out", finite=True, at_least_0=False)


def test_what_is_not_read_has_no_header(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"")
    with pytest.raises(MessageError, match="does not fit in a file of 0 bytes"):
        read_header(path)


SMALL = {"w": torch.tensor([[0.5, -1.0], [2.0, 3.0]]), "n": torch.tensor([3], dtype=torch.int32)}


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "x"
    save_file(SMALL, path)
    return path.read_bytes()


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(-12, 12),
)
def test_any_change_of_a_file_is_refused_or_harmless(small_file, tmp_path_factory, changes, longer):
    """Harmless: what leaves are the asked tensors, finite, and nothing besides."""
    raw = bytearray(small_file)
    for place, byte in changes:
        raw[place % len(raw)] = byte
    raw = raw + b"\x00" * longer if longer >= 0 else raw[:longer]
    folder = tmp_path_factory.mktemp("mutated")
    path, sent, into = folder / "reply", folder / "sent", folder / "out"
    path.write_bytes(raw)
    sent.write_bytes(small_file)
    try:
        left = let_out(folder, into)
    except LeavingRefused:
        assert not into.exists()
        return
    out = load_file(into)
    assert {name: (t.dtype, t.shape) for name, t in out.items()} == {n: (t.dtype, t.shape) for n, t in SMALL.items()}
    assert bool(torch.isfinite(out["w"]).all())
    data = sum(t.numel() * t.element_size() for t in SMALL.values())
    assert len(into.read_bytes()) - int.from_bytes(into.read_bytes()[:8], "little") - 8 == data
    assert b"__metadata__" not in into.read_bytes()
    assert {t.name for t in left} == SMALL.keys()


@given(
    st.dictionaries(st.sampled_from([*SMALL, "v", ""]), st.sampled_from(["F32", "F64", "I32", "BOOL"]), max_size=4),
    st.lists(st.integers(0, 3), max_size=3),
)
def test_any_other_set_of_tensors_is_refused(tmp_path_factory, small_file, dtypes, shape):
    kinds = {"F32": torch.float32, "F64": torch.float64, "I32": torch.int32, "BOOL": torch.bool}
    tensors = {name: torch.zeros(shape, dtype=kinds[dtype]) for name, dtype in dtypes.items()}
    folder = tmp_path_factory.mktemp("others")
    save_file(tensors, folder / "reply")
    (folder / "sent").write_bytes(small_file)
    # "w" has two dimensions of 2 and "n" one of 1: no shape fits both.
    with pytest.raises(LeavingRefused):
        let_out(folder, folder / "out")
