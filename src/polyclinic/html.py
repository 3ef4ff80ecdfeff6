"""The few pieces of HTML that a report is made of. All text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files


def page(title: str, css: str, body: Iterable[str]) -> str:
    """A whole page that loads nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def css() -> str:
    """The looks of all reports, on screen and on paper."""
    return files("polyclinic").joinpath("page.css").read_text(encoding="utf-8")


def element(name: str, text: str, css_class: str = "") -> str:
    """An element that holds text."""
    with_class = f' class="{css_class}"' if css_class else ""
    return f"<{name}{with_class}>{escape(text)}</{name}>"


def figure(source: str, alt: str, caption: str, title: str) -> str:
    """A picture with a title above and a caption below."""
    return (
        f'{element("h3", title)}\n<figure><img src="{source}" alt="{escape(alt, quote=True)}">'
        f"{element('figcaption', caption)}</figure>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, words: Sequence[int] = ()) -> str:
    """A table; the first column names its row.

    Args:
        head: names of the columns.
        rows: cells.
        caption: says what is shown.
        words: columns, besides the first, that hold words; all others hold numbers and are set to the right.
    """
    left = {0, *words}

    def cell(column: int, text: str) -> str:
        if column == 0:
            return f'<th scope="row">{escape(text)}</th>'
        return f"<td{_class(column)}>{escape(text)}</td>"

    def _class(column: int) -> str:
        return ' class="detail"' if column in left else ' class="number"'

    heads = "".join(f'<th scope="col"{_class(n) if n else ""}>{escape(name)}</th>' for n, name in enumerate(head))
    body = "\n".join("<tr>" + "".join(cell(n, text) for n, text in enumerate(row)) + "</tr>" for row in rows)
    return (
        f'<div class="wide"><table>{element("caption", caption)}\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
