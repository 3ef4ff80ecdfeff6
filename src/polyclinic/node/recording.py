"""The tensor operations of a call, recorded once and done again without the Python that led to them.

This is right only where that Python does the same each time: the caller has to make sure of it. Numbers that were read
out of a tensor would be those of the recording, so a call that reads some cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Function = Callable[..., tuple[torch.Tensor, ...]]

_ATEN = torch.ops.aten
# A third of a mapped step's operations only give a tensor the shape that it has.
_SAME_IF_SHAPED_ALIKE = {_ATEN.view.default, _ATEN.expand.default, _ATEN._unsafe_view.default, _ATEN.detach.default}
_READS = {_ATEN._local_scalar_dense.default, _ATEN.nonzero.default, _ATEN.equal.default}


class NotRecorded(Exception):
    """What in a call depends on its tensors' values."""


def record(function: Function, inputs: Sequence[torch.Tensor]) -> Function:
    """Calls the function and returns one that does the same operations with other inputs of the same shapes and dtypes.

    Args:
        function: of tensors; returns a tuple of tensors.
        inputs: what to call it with.

    Raises:
        NotRecorded: a value was read out of a tensor.
    """
    recorder = _Recorder(inputs)
    with recorder:
        outputs = function(*inputs)
    return recorder.written(outputs)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Tensors are known by id, so they must not be freed while recording.
        self._alive: list[torch.Tensor] = []
        self._names: dict[int, str] = {}
        self._constants: dict[str, Any] = {}
        self._lines: list[tuple[list[str], str, set[str]]] = []
        self._inputs = [self._name(tensor) for tensor in inputs]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READS:
            raise NotRecorded(f"{func} reads a tensor's values")
        out = func(*args, **(kwargs or {}))
        if func in _SAME_IF_SHAPED_ALIKE and out.shape == args[0].shape and out.stride() == args[0].stride():
            self._alive.append(out)
            self._names[id(out)] = self._spelt(args[0], set())
            return out
        used: set[str] = set()
        operation = self._constant(func)
        spelt = [self._spelt(value, used) for value in args]
        spelt += [f"{name}={self._spelt(value, used)}" for name, value in (kwargs or {}).items()]
        several = isinstance(out, tuple | list)
        targets = [self._name(t) if isinstance(t, torch.Tensor) else "_" for t in (out if several else (out,))]
        left = ", ".join(targets) + ("," if several and len(targets) == 1 else "")
        self._lines.append((targets, f"{left} = {operation}({', '.join(spelt)})", used))
        return out

    def written(self, outputs: Sequence[torch.Tensor]) -> Function:
        """The recorded operations as a Python function."""
        last: set[str] = set()
        result = f"    return ({', '.join(self._spelt(t, last) for t in outputs)},)"
        body: list[str] = []
        needed = set(last)
        # From behind, so that a tensor can be given up after its last use.
        for targets, text, used in reversed(self._lines):
            done = sorted((used | set(targets)) - needed - set(self._inputs) - {"_"})
            body.append(f"    {text}" + (f"; del {', '.join(done)}" if done else ""))
            needed |= used | set(targets)
        source = "\n".join([f"def recorded({', '.join(self._inputs)}):", *reversed(body), result])
        namespace = dict(self._constants)
        exec(source, namespace)  # the text is made of names of our own, and of nothing else
        function: Function = namespace["recorded"]
        return function

    def _name(self, tensor: torch.Tensor) -> str:
        """A name for a tensor; an operation in place gives the one that it had."""
        if id(tensor) not in self._names:
            self._alive.append(tensor)
            self._names[id(tensor)] = f"t{len(self._names)}"
        return self._names[id(tensor)]

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = value
        return name

    def _spelt(self, value: Any, used: set[str]) -> str:
        if isinstance(value, torch.Tensor) and id(value) in self._names:
            used.add(self._names[id(value)])
            return self._names[id(value)]
        if isinstance(value, list | tuple) and any(isinstance(v, torch.Tensor) for v in value):
            return f"[{', '.join(self._spelt(v, used) for v in value)}]"
        return self._constant(value)
