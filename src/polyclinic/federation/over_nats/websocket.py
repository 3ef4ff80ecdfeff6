"""Addresses of a hub: TLS, or a websocket where only web traffic may go out."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from polyclinic.errors import FederationError

SCHEME = "wss"


def is_websocket(urls: Iterable[str]) -> bool:
    """Whether the hub is dialled so; nats-py refuses a mixture."""
    return any(url.startswith(f"{SCHEME}://") for url in urls)


def require_websocket(urls: Iterable[str]) -> None:
    """Looks, before these addresses are dialled, whether they can be.

    Raises:
        FederationError: they are websockets, and the package for that is not installed.
    """
    if is_websocket(urls) and find_spec("aiohttp") is None:
        raise FederationError(
            f"to reach {', '.join(urls)} by websocket needs aiohttp, which is not installed",
            to_do="pip install 'polyclinic[websocket]'",
        )


def url_of(dial: str) -> str:
    """The address that ``host:port`` or a URL stands for.

    Raises:
        FederationError: if it is a URL that no hub has.
    """
    scheme, given, _ = dial.partition("://")
    if not given:
        return f"tls://{dial}"
    if scheme not in ("tls", SCHEME):
        raise FederationError(
            f"a hub cannot be dialled by {dial!r}", to_do=f"write host:port, or {SCHEME}://host:port for a websocket"
        )
    return dial
