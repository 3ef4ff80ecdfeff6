"""The report on an experiment as a page: HTML to be printed or kept, and plain text. Data are counts in it."""

from __future__ import annotations

from collections.abc import Iterator

from polyclinic.html import css, element, page, table
from polyclinic.node.experiment_report import ExperimentReport, Work
from polyclinic.node.journal_text import moment, sentence, size, verdict_lines
from polyclinic.node.plan_reading import shown
from polyclinic.node.tensor_file import Left

# Up to so many tensors are listed in sight; more are folded away, or the page would be long.
_IN_SIGHT = 100
_SAYS = {
    "bubblewrap": "in a process without network, which saw this dataset and one scratch folder only (bubblewrap)",
    "": "in a process of its own; how it was shut off was not noted",
    "limits-only": "in a process of its own with limits on memory, time and files only: not shut off from the network "
    "and other files (limits-only)",
}


def html_page(report: ExperimentReport) -> str:
    """One page that loads nothing."""
    title = f"Experiment {shown(report.experiment)} at {report.node_name}"
    body = [element("h1", title), element("p", _made(report), "soft")]
    if report.verdict.row is not None:
        body.append(element("p", verdict_lines(report.verdict, checked=True)[0], "warning"))
    body.append(element("h2", "In short"))
    body.append(table(("", ""), list(_facts(report)), "What ran, for whom, on which data", words=[1]))
    for head, columns, rows, caption, words in _tables(report):
        body.append(element("h2", head))
        body.append(table(columns, rows, caption, words) if rows else element("p", caption))
    body += _tensors_in_html(report)
    body.append(element("h2", "The journal"))
    body += [element("p", line) for line in verdict_lines(report.verdict, checked=True)]
    line = element("td", "Date, name and signature of the data manager")
    body.append(f'<table class="signing"><tr>{line}</tr></table>')
    return page(title, css(), body)


def text_page(report: ExperimentReport) -> str:
    """The same in plain text."""
    title = f"Experiment {shown(report.experiment)} at {report.node_name}"
    lines = [title, "=" * len(title), _made(report), ""]
    lines += [f"{name + ':':<22}{value}" for name, value in _facts(report)]
    for head, columns, rows, caption, _ in _tables(report):
        lines += ["", head, "-" * len(head), caption, *_aligned([tuple(columns), *rows])]
    if report.tensors:
        lines += ["", "Every tensor that left", "-" * 22, *_aligned([_TENSOR_COLUMNS, *map(_tensor, report.tensors)])]
    lines += ["", "The journal", "-" * 11, *verdict_lines(report.verdict, checked=True)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _made(report: ExperimentReport) -> str:
    return (
        f"Made on {report.made} UTC from the journal of node {report.node_id} by Polyclinic {report.version}. "
        "Times are in UTC. The data appear as counts only."
    )


def _facts(report: ExperimentReport) -> Iterator[tuple[str, str]]:
    for researcher, key in report.researchers:
        yield "Researcher", shown(f"{researcher}, public key {key}")
    for name, digest in report.plans:
        yield "Plan", shown(f"{name}, SHA-256 {digest}")
    yield "Purpose", shown(", ".join(report.purposes)) or "not said"
    yield "From, to", f"{moment(report.first)}, {moment(report.last)}"
    for name, kind, train, test in report.datasets:
        counts = "" if train is None else f": {train:,} training and {test or 0:,} test rows"
        yield "Data", shown(f"{name} ({kind}){counts}")
    yield "Outcome", ", ".join(f"{count} {outcome}" for outcome, count in report.outcomes.items()) or "nothing ran"
    left = report.tensors
    num_bytes = sum(tensor.bytes for _, tensor in left)
    yield "What left", f"{len(left):,} tensors, {size(num_bytes)}; see below" if left else "no tensors"
    metrics = sorted({name for work in report.work for name in work.metrics})
    yield "Metrics that left", shown(", ".join(metrics)) or "none"
    yield "Losses that left", "yes, one number a round" if any(work.loss for work in report.work) else "none"
    for sandbox in report.sandboxes or ("",):
        yield (
            "The plan ran",
            _SAYS.get(sandbox, sandbox),
        )
    for digest in report.policies:
        yield "Policy in force", f"file with SHA-256 {digest}"
    yield "Messages", "encrypted and signed from party to party"


_Table = tuple[str, tuple[str, ...], list[tuple[str, ...]], str, list[int]]


def _tables(report: ExperimentReport) -> Iterator[_Table]:
    """A heading, names of columns, rows, a caption, and the columns that hold words."""
    decisions: list[tuple[str, ...]] = [(moment(row.time), row.kind, sentence(row)) for row in report.decisions]
    says = "What the data manager said" if decisions else "No approval is noted: the policy asked for none."
    yield "Who said yes", ("time", "decision", "by whom, and for what"), decisions, says, [1, 2]
    refused: list[tuple[str, ...]] = [(shown(what), str(count)) for what, count in report.refusals]
    says = "Requests of this experiment that were refused" if refused else "Nothing of this experiment was refused."
    yield "What was refused", ("error code and rules", "times"), refused, says, []
    works = [_work(work) for work in report.work]
    columns = ("started", "work", "round", "outcome", "seconds", "rows used", "tensors left", "size", "journal row")
    says = "Each piece of work on the data, and what came of it" if works else "Nothing ran."
    yield "What ran", columns, works, says, [1, 3]


def _work(work: Work) -> tuple[str, ...]:
    why = f": {work.code}" + (f" at {work.stage}" if work.stage else "") if work.code else ""
    return (
        moment(work.started),
        work.work,
        "" if work.round is None else str(work.round),
        work.outcome + why,
        f"{work.seconds:.1f}",
        "" if work.rows is None else f"{work.rows:,}",
        str(len(work.left)),
        size(work.bytes) if work.left else "",
        "" if work.row is None else f"{work.row} {work.digest[:8]}",
    )


_TENSOR_COLUMNS = ("tensor", "work", "round", "shape", "type", "bytes", "SHA-256")


def _tensor(pair: tuple[Work, Left]) -> tuple[str, ...]:
    work, tensor = pair
    shape = " × ".join(map(str, tensor.shape)) or "one number"
    number = "" if work.round is None else str(work.round)
    return (shown(tensor.name), work.work, number, shape, tensor.dtype, f"{tensor.bytes:,}", tensor.sha256)


def _tensors_in_html(report: ExperimentReport) -> list[str]:
    rows = [_tensor(pair) for pair in report.tensors]
    if not rows:
        return []
    listed = table(_TENSOR_COLUMNS, rows, "Every tensor that left, with the SHA-256 of its bytes", [1, 3, 4, 6])
    if len(rows) > _IN_SIGHT:
        summary = element("summary", f"All {len(rows):,} tensors (open before printing, if they are wanted on paper)")
        listed = f"<details>{summary}\n{listed}</details>"
    return [element("h2", "What left"), listed]


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    if len(rows) < 2:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
