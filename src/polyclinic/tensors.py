"""Named tensors as bytes, in the safetensors format, at memory speed.

A file or message is: 8 bytes (little-endian length of the header), the header (JSON: name -> dtype, shape,
data_offsets), then the tensors' own bytes. Format: https://github.com/huggingface/safetensors

Writing hands out views of the tensors' memory, so nothing is copied; reading maps the file, or views the buffer.
Tensors are laid out by falling item size, so that each one is aligned; the header keeps the order they came in.
The reader trusts nothing: every length, offset, dtype and shape is checked before memory is touched.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyclinic.errors import MessageError

if TYPE_CHECKING:
    import torch

Buffer = bytes | bytearray | memoryview | mmap.mmap

MAX_HEADER_BYTES = 8 << 20
MAX_NAME_CHARS = 512
MAX_DIMENSIONS = 64
# A header's values take up to a hundred times its bytes once they are Python objects, so they are limited as well.
MAX_JSON_VALUES = 1 << 18
_METADATA = "__metadata__"

# safetensors name -> (torch name, bytes an item)
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "U16": ("uint16", 2),
    "U32": ("uint32", 4),
    "U64": ("uint64", 8),
    "BOOL": ("bool", 1),
}
_NAMES = {torch_name: name for name, (torch_name, _) in DTYPES.items()}


def encode(tensors: Mapping[str, torch.Tensor]) -> list[bytes | memoryview]:
    """The parts whose concatenation is a safetensors file; tensor parts are views, not copies.

    Raises:
        MessageError: for what `decode` would not read: another dtype, a sparse tensor, a name without end.
    """
    entries = {name: _entry(name, tensor) for name, tensor in tensors.items()}
    order = sorted(entries, key=lambda name: -DTYPES[entries[name]["dtype"]][1])
    parts: list[bytes | memoryview] = []
    end = 0
    for name in order:
        data = _view(tensors[name])
        entries[name]["data_offsets"] = [end, end + len(data)]
        end += len(data)
        parts.append(data)
    header = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > MAX_HEADER_BYTES or num_json_values(header) > MAX_JSON_VALUES:
        raise MessageError(
            f"{len(entries)} tensors are more than can travel", to_do="join small tensors to larger ones"
        )
    return [len(header).to_bytes(8, "little") + header, *parts]


def decode(buffer: Buffer) -> dict[str, torch.Tensor]:
    """The tensors in ``buffer``, as views of it where it is writable and they are aligned, else as copies.

    Raises:
        MessageError: for anything that is not exactly a well-formed safetensors buffer.
    """
    view = memoryview(buffer)
    entries, start = _read_header(view)
    return {name: _tensor(view, start, entry) for name, entry in entries.items()}


def load_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, mapped copy-on-write: read as touched, and the file never changes.

    Raises:
        MessageError: if the file is damaged.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        if size < 8:
            raise MessageError(f"{path.name} is no safetensors file: {size} bytes")
        return decode(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def num_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the tensors' data."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _entry(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    torch_name = str(tensor.dtype).removeprefix("torch.")
    if torch_name not in _NAMES:
        raise MessageError(
            f"tensor {name!r} has dtype {torch_name}, which cannot travel",
            to_do=f"convert it to one of {', '.join(_NAMES)}",
        )
    if str(tensor.layout) != "torch.strided" or tensor.is_meta or tensor.dim() > MAX_DIMENSIONS:
        raise MessageError(
            f"tensor {name!r} is sparse, without data, or has more than {MAX_DIMENSIONS} dimensions",
            to_do="make it an ordinary tensor, for example with .to_dense()",
        )
    if not _may_be_named(name):
        raise MessageError(
            f"a tensor cannot travel as {name[:40]!r}",
            to_do=f"choose a name of at most {MAX_NAME_CHARS} characters that is valid Unicode and not {_METADATA}",
        )
    return {"dtype": _NAMES[torch_name], "shape": list(tensor.shape), "data_offsets": [0, 0]}


def _may_be_named(name: str) -> bool:
    # JSON can spell half a character (a lone surrogate), which no file or log can hold.
    return len(name) <= MAX_NAME_CHARS and name != _METADATA and name == name.encode(errors="ignore").decode()


def _view(tensor: torch.Tensor) -> memoryview:
    import torch

    if not tensor.numel():
        return memoryview(b"")
    flat = tensor.detach().cpu().resolve_neg().contiguous()
    # Not reshape(-1): that keeps any stride where there is only one element.
    flat = flat.as_strided((flat.numel(),), (1,))
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _read_header(view: memoryview) -> tuple[dict[str, dict[str, Any]], int]:
    if len(view) < 8:
        raise MessageError(f"tensors need at least 8 bytes, got {len(view)}")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER_BYTES or length > len(view) - 8:
        raise MessageError(f"a tensor header of {length} bytes does not fit")
    return read_entries(view[8 : 8 + length], len(view) - 8 - length), 8 + length


def read_entries(header: memoryview | bytes, available: int) -> dict[str, dict[str, Any]]:
    """What a safetensors header says: name -> dtype, shape, data_offsets.

    Args:
        available: bytes that come after the header; the tensors must take exactly these.

    Raises:
        MessageError: it is not well-formed.
    """
    entries = parse_json(header)
    if not isinstance(entries, dict):
        raise MessageError("the tensor header is not a JSON object")
    metadata = entries.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MessageError("the tensor header's metadata are not texts")
    _check_entries(entries, available)
    return entries


def _check_entries(entries: dict[str, Any], available: int) -> None:
    spans = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise MessageError("a tensor entry needs exactly dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not _may_be_named(name) or not isinstance(dtype, str) or dtype not in DTYPES:
            raise MessageError("a tensor has an unfit name or an unknown dtype")
        if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
            raise MessageError("a tensor's shape or offsets are not sizes")
        # Strides are products of sizes, also where another size is 0 and nothing is stored.
        if math.prod(max(size, 1) for size in shape) >= 1 << 59:
            raise MessageError("a tensor's shape is too large")
        if offsets[0] + math.prod(shape) * DTYPES[dtype][1] != offsets[1]:
            raise MessageError("a tensor's offsets do not match its shape")
        spans.append((offsets[0], offsets[1]))
    # No gaps, no overlaps, no trailing bytes: otherwise one buffer could be read in two ways.
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise MessageError("tensors overlap or leave gaps")
        end = stop
    if end != available:
        raise MessageError(f"tensors take {end} bytes, {available} are there")


def _sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 1 << 53 for v in values)


def _tensor(view: memoryview, start: int, entry: dict[str, Any]) -> torch.Tensor:
    import torch

    torch_name, size = DTYPES[entry["dtype"]]
    dtype: torch.dtype = getattr(torch, torch_name)
    begin, end = (start + offset for offset in entry["data_offsets"])
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    data: memoryview | bytearray = view[begin:end]
    if begin % size or view.readonly:
        data = bytearray(data)
    # A bool of any other byte than 0 and 1 is undefined behaviour in torch.
    if dtype == torch.bool and int(torch.frombuffer(data, dtype=torch.uint8).max()) > 1:
        raise MessageError("a boolean tensor holds other bytes than 0 and 1")
    return torch.frombuffer(data, dtype=dtype).reshape(entry["shape"])


def num_json_values(data: bytes) -> int:
    """No fewer than the values in this JSON: punctuation inside of texts counts as well."""
    return 1 + sum(map(data.count, (b",", b"[", b"{")))


def parse_json(data: memoryview | bytes, *, constants: bool = False) -> Any:
    """JSON in UTF-8 in which no key stands twice and, unless ``constants``, no number is NaN or infinite.

    Raises:
        MessageError: if it is not.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise MessageError("a key stands twice in a header")
        return found

    def constant(word: str) -> float:
        if constants:
            return float(word)
        raise MessageError(f"{word} is no JSON")

    data = bytes(data)
    if num_json_values(data) > MAX_JSON_VALUES:
        raise MessageError(f"a header of more than {MAX_JSON_VALUES} values")
    try:
        # Decoded here, because json would take UTF-16 and UTF-32 as well.
        return json.loads(data.decode(), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as err:
        raise MessageError("the header is no JSON") from err
