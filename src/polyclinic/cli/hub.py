"""``polyclinic hub``: the message server of a real federation, for the operator of a consortium."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from polyclinic.federation.hub.layout import HubFolder, Settings

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The hub of a real federation: start it, invite hospitals and researchers, shut them out.",
)

HubAt = Annotated[
    Path | None,
    typer.Option(
        "--at", metavar="DIR", envvar="POLYCLINIC_HUB", help="The hub's folder. Default: one in your data folder."
    ),
]
Hosts = Annotated[
    str, typer.Option("--host", metavar="A,B", help="What parties dial: names or addresses. Default: this machine's.")
]


@app.command()
def start(
    at: HubAt = None,
    host: Hosts = "",
    port: Annotated[int | None, typer.Option(help="What the server listens at; default 4222.")] = None,
    name: Annotated[str | None, typer.Option(help="What people call the hub; default: this machine's name.")] = None,
    max_disk: Annotated[float | None, typer.Option(metavar="GB", help="For all that is stored; default 50.")] = None,
    websocket_port: Annotated[int | None, typer.Option(help="For parties behind a web proxy; default: none.")] = None,
    own_server: Annotated[
        bool | None, typer.Option("--server/--no-server", help="Run the server too, or only the desk; default: both.")
    ] = None,
) -> None:
    """Run the hub, until Ctrl-C or `polyclinic hub stop`.

    The first start makes certificates, keys and the store. Settings are kept: say them once.

    Example: `polyclinic hub start --host hub.example.org`
    """
    from polyclinic.federation.hub.running import run
    from polyclinic.federation.over_nats import event_loop

    _log_to_the_terminal()
    folder = _folder(at)

    def ready(settings: Settings) -> None:
        typer.echo(f"The hub {settings.name!r} runs at {', '.join(settings.urls)}. Its folder is {folder.path}")
        typer.echo('Next: polyclinic hub invite node "NAME", polyclinic hub invite researcher "NAME". Stop: Ctrl-C')

    changes = {
        "hosts": _hosts(host),
        "port": port,
        "name": name,
        "max_disk_bytes": None if max_disk is None else int(max_disk * 1e9),
        "websocket_port": websocket_port,
        "own_server": own_server,
    }
    event_loop.run(run(folder, ready, **changes))
    typer.echo("The hub has stopped.")


@app.command()
def invite(
    role: Annotated[str, typer.Argument(help="node or researcher.")],
    name: Annotated[str, typer.Argument(help='Who it is for, for example "Guy\'s Hospital".')],
    valid_for: Annotated[str, typer.Option(metavar="TIME", help="30m, 24h or 7d; at most 30d.")] = "24h",
    at: HubAt = None,
) -> None:
    """Print a join token: one line that lets one party in, once.

    Send it over a way that you both trust: whoever uses it first is in.

    Example: `polyclinic hub invite node "Guy's Hospital" --valid-for 2h`
    """
    from polyclinic.errors import ConfigError, nearest
    from polyclinic.federation.hub.parties import Parties
    from polyclinic.federation.hub.running import refresh
    from polyclinic.federation.hub.tokens import duration
    from polyclinic.federation.over_nats import event_loop
    from polyclinic.federation.over_nats.subjects import Role

    if role not in list(Role):
        raise ConfigError(f"{role!r} cannot be invited", to_do=nearest(role, map(str, Role)))
    folder = _folder(at)
    token = Parties(folder).invite(Role(role), name, duration(valid_for))
    known = event_loop.run(refresh(folder))
    # Only the token goes to standard output, so that it can be piped.
    command = {"node": "polyclinic node join TOKEN", "researcher": "polyclinic federation use TOKEN"}[role]
    typer.echo(f"Token for {role} {name!r} (id {token.party_id}), for {command}", err=True)
    typer.echo(f"Good once, until {token.expires:%Y-%m-%d %H:%M} UTC:", err=True)
    typer.echo(token.encode())
    if not known:
        typer.echo("The hub does not run. The token works once it does: polyclinic hub start", err=True)


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="The party's name or id.")], at: HubAt = None) -> None:
    """Shut a node or researcher out at once, and delete what it has at the hub.

    Its unused join tokens are withdrawn. An open connection is cut.

    Example: `polyclinic hub revoke "Guy's Hospital"`
    """
    from polyclinic.federation.hub.parties import Parties
    from polyclinic.federation.hub.running import refresh
    from polyclinic.federation.over_nats import event_loop

    folder = _folder(at)
    party, withdrawn = Parties(folder).revoke(name)
    known = event_loop.run(refresh(folder))
    if party:
        typer.echo(f"Revoked {party.role} {party.name!r} (id {party.party_id}).")
    if withdrawn:
        typer.echo(f"Withdrew the unused join token for {name!r}.")
    if not known:
        typer.echo("The hub does not run; servers that run elsewhere know of this at its next start.", err=True)


@app.command()
def status(at: HubAt = None) -> None:
    """Show whether the hub runs, who belongs to it and is connected, and what is stored."""
    from rich.console import Console

    from polyclinic.federation.hub.status import look, tables
    from polyclinic.federation.over_nats import event_loop

    folder = _folder(at)
    console = Console()
    for part in tables(folder, event_loop.run(look(folder))):
        console.print(part, markup=False, highlight=False, soft_wrap=isinstance(part, str))


@app.command()
def stop(at: HubAt = None) -> None:
    """End a hub that runs on this machine."""
    from polyclinic.federation.hub.running import stop as end

    folder = _folder(at)
    typer.echo("The hub has stopped." if end(folder) else f"No hub runs at {folder.path}.")


@app.command()
def config(
    cluster: Annotated[int | None, typer.Option(metavar="N", help="3 or 5 servers; 1: no cluster.")] = None,
    host: Hosts = "",
    port: Annotated[int | None, typer.Option(help="What the servers listen at; default 4222.")] = None,
    at: HubAt = None,
) -> None:
    """Print the configuration of nats-server, for servers that are run by other means.

    It is also written into the folder `server` of the hub, with all that it names, and kept up to date there.

    Example: `polyclinic hub config --cluster 3 --host a.example.org,b.example.org,c.example.org`
    """
    from polyclinic.federation.hub.config import as_text, server_configs
    from polyclinic.federation.hub.parties import Parties
    from polyclinic.federation.hub.running import configure

    folder = _folder(at)
    several = None if cluster is None or cluster == 1 else False
    configure(folder, cluster=cluster, hosts=_hosts(host), port=port, own_server=several)
    for name, found in server_configs(folder, Parties(folder)).items():
        typer.echo(f"# {folder.server / name}")
        typer.echo(as_text(found))


def _folder(at: Path | None) -> HubFolder:
    from polyclinic.federation.hub.layout import HubFolder, default_place

    return HubFolder(default_place() if at is None else at.expanduser().absolute())


def _hosts(text: str) -> tuple[str, ...] | None:
    return tuple(word.strip() for word in text.split(",")) if text else None


def _log_to_the_terminal() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
