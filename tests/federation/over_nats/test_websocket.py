"""How a hub is dialled by websocket; `tests/system/test_hospital_websocket.py` does it."""

import sys
from datetime import UTC, datetime, timedelta

import pytest

from polyclinic.errors import FederationError
from polyclinic.federation.hub.joining import join
from polyclinic.federation.hub.tokens import JoinToken
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.identity import Identity, KeyPair
from polyclinic.federation.over_nats.subjects import Role
from polyclinic.federation.over_nats.websocket import require_websocket, url_of

URL = "wss://hub.example.org:8443"


TOKEN = JoinToken.new(
    Role.NODE, "guys", "Guys", hub_name="study", urls=(URL,), ca="", expires=datetime.now(UTC) + timedelta(hours=1)
)


@pytest.fixture
def without_aiohttp(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiohttp", None)


def test_joining_without_the_package_says_what_to_install(without_aiohttp, tmp_path):
    with pytest.raises(FederationError, match=r"needs aiohttp.*\n.*pip install 'polyclinic\[websocket\]'"):
        join(TOKEN, tmp_path / "node")
    assert not (tmp_path / "node").exists()


def test_so_does_connecting(without_aiohttp):
    me = Identity(
        role=Role.NODE, party_id="guys", name="Guys", hub_name="study", urls=(URL,), ca="", keys=KeyPair.generate()
    )
    with pytest.raises(FederationError, match=r"wss://hub\.example\.org:8443 by websocket needs aiohttp"):
        event_loop.run(Link(me).open())


def test_the_package_is_needed_for_a_websocket_only(without_aiohttp):
    require_websocket(["tls://hub.example.org:4222"])


@pytest.mark.parametrize("dial", [URL, "hub.example.org:443", "tls://hub.example.org:443"])
def test_addresses(dial):
    assert url_of(dial) == (dial if "://" in dial else f"tls://{dial}")


@pytest.mark.parametrize("dial", ["ws://hub.example.org", "https://hub.example.org", "nats://hub.example.org:4222"])
def test_a_url_that_no_hub_has_is_told(dial):
    with pytest.raises(FederationError, match=f"cannot be dialled by '{dial}'\n.*wss://host:port for a websocket"):
        url_of(dial)
