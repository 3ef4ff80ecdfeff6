"""Each remark has a text that deserves it; an honest plan has none."""

import pytest

from polyclinic.node.plan_reading import Remark, difference, imports, remarks, shown

HONEST = '''
from __future__ import annotations

import torch
from torch import nn


class Plan:
    """A plan; größer, μ."""

    def __init__(self, model_args):
        super().__init__()
        self.model = nn.Linear(model_args["size"], 1)

    def training_step(self, input, y):
        return getattr(self, "loss")(self.model(input), y)
'''


def test_an_honest_plan_has_no_remarks():
    assert remarks(HONEST) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import socket", "imports socket, which is about the network"),
        ("import urllib.request as r", "imports urllib.request, which is about the network"),
        ("from torch import hub", "imports torch.hub, which is about the network"),
        ("def f():\n    import os.path", "imports os.path, which is about files"),
        ("import subprocess", "imports subprocess, which is about other processes and threads"),
        ("import importlib", "imports importlib, which is about code made or found while it runs"),
        ("import ctypes", "imports ctypes, which is about memory past Python's rules"),
        ("from torch.nn import *", "imports all names of torch.nn, whatever they are"),
        ("eval('1')", "eval runs a text as code"),
        ("e = exec", "exec runs a text as code"),
        ("__import__('os')", "__import__ imports a module by a name made while it runs"),
        ("open('x')", "open() opens a file"),
        ("getattr(x, a + b)", "getattr() with a name that is made while it runs"),
        ("x.__class__", "__class__ reaches into Python's own workings"),
        ("getattr(x, '__globals__')", "the text '__globals__' names Python's own workings"),
        ("torch.save(x, 'f')", ".save() often writes a file"),
        ("p.write_text('x')", ".write_text() often writes a file"),
        ("torch.load('f')", ".load() often reads a file"),
        (f"x = {'a' * 3000!r}", "a text of 3000 characters: data, or code, may lie in it"),
        ("x = 1 # " + "a" * 3000, "is 3008 characters long: look at its end too"),
        ("p\u0430yload = 1", "has a name with letters that may look like others"),
        ("x = (", "is not Python from here on; a node would not run it"),
        ("x = 1\0", "is not Python from here on; a node would not run it"),
    ],
)
def test_each_remark(text, what):
    assert what in [remark.what for remark in remarks(text)]


@pytest.mark.parametrize("number", [0x202E, 0x2066, 0x200B, 0xFEFF, 0x00AD, 0xE0001, 0x3164, 0x1B, 0x0D, 0x85, 0xA0])
def test_what_is_not_seen_is_shown_and_named(number):
    text = f"# first\nx = 'a{chr(number)}b'"
    assert shown(text) == f"# first\nx = 'a⟦U+{number:04X}⟧b'"
    assert any(remark.line == 2 and f"U+{number:04X}" in remark.what for remark in remarks(text))


def test_ordinary_letters_of_all_languages_are_shown_as_they_are():
    text = "größe = 'Ωμέγα 京 العربية'\n\tpass"
    assert shown(text) == text


def test_remarks_are_in_the_order_of_lines():
    assert [remark.line for remark in remarks("import os\n\nimport socket")] == [1, 3]
    assert Remark(1, "b") < Remark(2, "a")


def test_imports():
    assert imports("import torch, os.path\nfrom torch import nn, hub\ndef f():\n    from a.b import c") == [
        "a.b",
        "os.path",
        "torch",
        "torch.hub",
    ]
    assert imports("x = (") == []


def test_the_difference_shows_what_is_not_seen():
    lines = difference("a\nb\n", "a\nb\u202e\n")
    assert lines[3:6] == [" a", "-b", "+b⟦U+202E⟧"]
