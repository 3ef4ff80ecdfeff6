"""The hub's folder, and its settings.

::

    hub.json            the settings
    hub.sqlite          parties and join tokens
    ca.pem  ca.key      the certificate authority that parties pin; whoever has its key can play the hub
    admin.seed          the key of the hub's desk and of the operator's commands
    system.seed         the key that reloads the server
    hub.lock  hub.pid   held while the hub runs
    server/             all that the server reads and writes: server.conf, server.pem, server.key, store/, server.log

A copy of the folder is a backup; ``server/store`` may be left out of it, at the price of the rounds under way.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import platformdirs

from polyclinic.errors import HubError, reject_unknown
from polyclinic.federation.over_nats.identity import KeyPair, write_secret

PLACE_VARIABLE = "POLYCLINIC_HUB"
FORMAT_VERSION = 1
DEFAULT_PORT = 4222
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


def default_place() -> Path:
    """The hub's folder: ``POLYCLINIC_HUB``, or one in the user's data folder."""
    if chosen := os.environ.get(PLACE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_data_path("polyclinic") / "hub"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator decides.

    Args:
        name: what people call the hub.
        hosts: names or addresses that parties dial; with a cluster one for each server, ``host`` or ``host:port``.
        port: what the server listens at. A host that names a port is one that forwards to it, unless in a cluster.
        max_disk_bytes: the most that requests, replies and payloads may take together.
        cluster: how many servers run as a cluster, one at each host; 1: no cluster.
        own_server: whether ``hub start`` runs the server itself.
        websocket_port: where parties behind a web proxy may connect; None: nowhere.
    """

    name: str
    hosts: tuple[str, ...]
    port: int = DEFAULT_PORT
    max_disk_bytes: int = 50 << 30
    cluster: int = 1
    own_server: bool = True
    websocket_port: int | None = None

    def __post_init__(self) -> None:
        if not self.hosts or not all(self.hosts):
            raise HubError("the hub has no host name", to_do="name one that hospitals reach: --host hub.example.org")
        if self.cluster not in (1, 3, 5):
            raise HubError(f"a cluster of {self.cluster} servers", to_do="choose 3 or 5; an even number is no safer")
        if self.cluster > 1 and len(self.hosts) != self.cluster:
            raise HubError(
                f"a cluster of {self.cluster} servers has {self.cluster} hosts, not {len(self.hosts)}",
                to_do="name them all: --host a.example.org,b.example.org,c.example.org",
            )
        if self.cluster > 1 and self.own_server:
            raise HubError("a cluster is not run by one process", to_do="add --no-server; see docs/hub.md")
        for host in self.hosts:
            self._address(host)

    def _address(self, host: str) -> tuple[str, int]:
        name, colon, port = host.rpartition(":")
        if not colon or (":" in name and not name.startswith("[")):
            return host, self.port
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise HubError(f"the host {host!r} has no good port", to_do="write host or host:port")
        return name.strip("[]"), int(port)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each server, or of each name of the one server."""
        return [self._address(host) for host in self.hosts]

    @property
    def urls(self) -> tuple[str, ...]:
        """What parties dial."""
        return tuple(f"tls://{f'[{host}]' if ':' in host else host}:{port}" for host, port in self.addresses)

    @property
    def local_urls(self) -> tuple[str, ...]:
        """What the hub itself dials."""
        return (f"tls://127.0.0.1:{self.port}",) if self.own_server else self.urls

    @property
    def bind(self) -> str:
        """A hub whose only names are this machine's own is not offered to the network."""
        return "127.0.0.1" if all(host in _LOOPBACK for host, _ in self.addresses) else "0.0.0.0"

    @classmethod
    def default(cls) -> Settings:
        """For a hub at this machine."""
        return cls(name=socket.gethostname(), hosts=(socket.getfqdn(),))


@dataclass(frozen=True)
class HubFolder:
    """Where a hub keeps everything; see the module."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "hub.json"

    @property
    def database(self) -> Path:
        return self.path / "hub.sqlite"

    @property
    def lock(self) -> Path:
        return self.path / "hub.lock"

    @property
    def pid_file(self) -> Path:
        return self.path / "hub.pid"

    @property
    def server(self) -> Path:
        return self.path / "server"

    @property
    def ca(self) -> str:
        """The certificate authority, as PEM."""
        return (self.path / "ca.pem").read_text(encoding="ascii")

    @property
    def admin(self) -> KeyPair:
        return self._keys("admin.seed")

    @property
    def system(self) -> KeyPair:
        return self._keys("system.seed")

    def _keys(self, name: str) -> KeyPair:
        return KeyPair((self.path / name).read_text(encoding="ascii").strip())

    def make_keys(self) -> None:
        """Makes those that are missing."""
        for name in ("admin.seed", "system.seed"):
            if not (self.path / name).exists():
                write_secret(self.path / name, KeyPair.generate().seed)

    @property
    def exists(self) -> bool:
        return self.settings_file.exists()

    def require(self) -> HubFolder:
        """Raises HubError if no hub was ever started here."""
        if not self.exists:
            raise HubError(f"there is no hub at {self.path}", to_do="start one: polyclinic hub start --at DIR")
        return self

    def settings(self) -> Settings:
        """Reads them.

        Raises:
            HubError: if they cannot be read.
        """
        self.require()
        try:
            given = json.loads(self.settings_file.read_text(encoding="utf-8"))
            version = given.pop("version")
            given["hosts"] = tuple(given["hosts"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            raise HubError(f"{self.settings_file} cannot be read: {err}", to_do="take it from a backup") from err
        if version != FORMAT_VERSION:
            raise HubError(
                f"the hub at {self.path} has format {version}, not {FORMAT_VERSION}",
                to_do="use the version of Polyclinic that made it",
            )
        reject_unknown(given, [field.name for field in fields(Settings)])
        return Settings(**given)

    def save(self, settings: Settings) -> None:
        """Writes the settings; the folder is made if need be."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self.settings_file.with_suffix(".partial")
        text = json.dumps({"version": FORMAT_VERSION, **asdict(settings)}, indent=1, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(self.settings_file)
