"""Settings of a hub and where they are kept."""

import json
import stat

import pytest

from polyclinic.errors import ConfigError, HubError
from polyclinic.federation.hub import layout
from polyclinic.federation.hub.layout import HubFolder, Settings


def test_settings_come_back_as_they_were(tmp_path):
    hub = HubFolder(tmp_path / "hub")
    given = Settings(name="Cœur", hosts=("hub.example.org", "192.0.2.1"), port=4333, websocket_port=443)
    hub.save(given)
    assert hub.settings() == given
    assert stat.S_IMODE(hub.path.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("hosts", "urls"),
    [
        (("hub.example.org",), ("tls://hub.example.org:4222",)),
        (("hub.example.org:443", "10.0.0.1"), ("tls://hub.example.org:443", "tls://10.0.0.1:4222")),
        (("2001:db8::1", "[2001:db8::2]:443"), ("tls://[2001:db8::1]:4222", "tls://[2001:db8::2]:443")),
    ],
    ids=range(3),
)
def test_addresses_that_parties_dial(hosts, urls):
    assert Settings(name="x", hosts=hosts).urls == urls


def test_a_hub_for_this_machine_is_not_offered_to_the_network():
    assert Settings(name="x", hosts=("127.0.0.1", "localhost")).bind == "127.0.0.1"
    assert Settings(name="x", hosts=("127.0.0.1", "hub.example.org")).bind == "0.0.0.0"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"hosts": ()}, "no host name"),
        ({"hosts": ("",)}, "no host name"),
        ({"hosts": ("a:b",)}, "no good port"),
        ({"hosts": ("a:99999",)}, "no good port"),
        ({"hosts": ("a", "b"), "cluster": 2, "own_server": False}, "a cluster of 2 servers"),
        ({"hosts": ("a", "b"), "cluster": 3, "own_server": False}, "has 3 hosts, not 2"),
        ({"hosts": ("a", "b", "c"), "cluster": 3}, "not run by one process"),
    ],
    ids=range(7),
)
def test_settings_that_cannot_be(given, says):
    with pytest.raises(HubError, match=says):
        Settings(name="x", **given)


def test_settings_that_cannot_be_read(tmp_path):
    hub = HubFolder(tmp_path)
    with pytest.raises(HubError, match=r"there is no hub at .*\n.*polyclinic hub start"):
        hub.settings()
    hub.settings_file.write_text("{")
    with pytest.raises(HubError, match="cannot be read"):
        hub.settings()
    hub.settings_file.write_text('{"version": 9, "name": "x", "hosts": ["a"]}')
    with pytest.raises(HubError, match="has format 9, not 1"):
        hub.settings()
    hub.settings_file.write_text(json.dumps({"version": 1, "name": "x", "hosts": ["a"], "prot": 1}))
    with pytest.raises(ConfigError, match=r"unknown setting 'prot'\n.*'port'"):
        hub.settings()


def test_keys_are_made_once(tmp_path):
    hub = HubFolder(tmp_path)
    hub.make_keys()
    admin, system = hub.admin, hub.system
    assert admin != system
    hub.make_keys()
    assert (hub.admin, hub.system) == (admin, system)
    assert stat.S_IMODE((tmp_path / "admin.seed").stat().st_mode) == 0o600


def test_the_place_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv(layout.PLACE_VARIABLE, str(tmp_path))
    assert layout.default_place() == tmp_path
    monkeypatch.delenv(layout.PLACE_VARIABLE)
    assert layout.default_place().name == "hub"
