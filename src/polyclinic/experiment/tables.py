"""Tables as plain text, for print() and logs."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from html import escape


def render_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A table as text, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for number, name in enumerate(head):
        numeric = all(_is_number(row[number]) for row in rows if number < len(row))
        table.add_column(Text(name), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    text = io.StringIO()
    # Not as Jupyter: there rich would show the table itself instead of writing it.
    console = Console(file=text, width=10_000, color_system=None, legacy_windows=False, force_jupyter=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def html_facts(caption: str, facts: Mapping[str, object]) -> str:
    """A table of two columns in HTML, for notebooks."""
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return f"<table><caption>{escape(caption)}</caption>{rows}</table>"


def _is_number(cell: str) -> bool:
    return not cell or cell[0] in "0123456789-≈" or cell.startswith("nan")
