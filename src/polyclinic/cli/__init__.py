"""The command line: one file a command group. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from polyclinic.cli import benchmark, dataset, demo, federation, hub, joining, node, try_federation

app = typer.Typer(
    name="polyclinic",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Train one model over many hospitals while every patient record stays where it is.",
    epilog="""First steps, none of which needs data or a server:

`polyclinic demo` trains over four hospitals and shows the result

`polyclinic federation create fed_heart_disease` makes one node for each of its hospitals

then, in Python: `Experiment(MyPlan, tags=["fed_heart_disease"], …).run()`""",
)
app.command()(demo.demo)
app.command("try-federation")(try_federation.try_federation)
app.add_typer(federation.app, name="federation")
app.add_typer(node.app, name="node")
federation.app.command()(joining.use)
node.app.command("join")(joining.join_node)
app.add_typer(hub.app, name="hub")
app.add_typer(dataset.app, name="dataset")
app.add_typer(benchmark.app, name="benchmark")


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from polyclinic import __version__

        typer.echo(f"polyclinic {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Runs the command line; an error of ours is a message and exit code 1, never a traceback."""
    from polyclinic.cli.ctrl_c import keep_ctrl_c
    from polyclinic.errors import PolyclinicError

    keep_ctrl_c()
    try:
        app()
    except PolyclinicError as err:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True).print(Text.assemble(("Error: ", "bold red"), str(err)), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        typer.echo(f"\nInterrupted. {interrupt}".rstrip(), err=True)
        sys.exit(130)
