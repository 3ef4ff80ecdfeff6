"""Configurations, read by nats-server itself."""

import json
from datetime import timedelta

import pytest

from polyclinic.errors import HubError
from polyclinic.federation.hub.config import server_configs, write_server_configs
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.hub.running import configure
from polyclinic.federation.hub.server import check_config
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.subjects import Role


def make(tmp_path, **settings):
    hub = HubFolder(tmp_path / "hub")
    configure(hub, **settings)
    parties = Parties(hub)
    for role, name in ((Role.NODE, "Guys"), (Role.RESEARCHER, "Ada")):
        parties.admit(parties.invite(role, name, timedelta(hours=1)).token_id, KeyPair.generate().public_key)
    parties.invite(Role.NODE, "Kings", timedelta(hours=1))
    return hub, parties


def test_one_server_with_all_that_can_be_set_is_taken_by_nats_server(tmp_path):
    hub, parties = make(tmp_path, hosts=("hub.example.org",), websocket_port=8443)
    [path] = write_server_configs(hub, parties)
    check_config(path)
    found = json.loads(path.read_text())
    assert (found["host"], found["port"], found["websocket"]["port"]) == ("0.0.0.0", 4222, 8443)
    users = found["accounts"]["POLYCLINIC"]["users"]
    assert [one["nkey"] for one in users if "permissions" not in one] == [hub.admin.public_key]
    assert {one["nkey"] for one in users} > {one.public_key for one in parties.members()}


def test_a_cluster_of_three_is_taken_by_nats_server(tmp_path):
    hosts = ("a.example.org", "b.example.org:4300", "c.example.org")
    hub, parties = make(tmp_path, hosts=hosts, cluster=3, own_server=False)
    paths = write_server_configs(hub, parties)
    assert [path.name for path in paths] == ["server-1.conf", "server-2.conf", "server-3.conf"]
    for path in paths:
        check_config(path)
    found = [json.loads(path.read_text()) for path in paths]
    assert [one["port"] for one in found] == [4222, 4300, 4222]
    assert [one["cluster"]["port"] for one in found] == [6222, 6300, 6222]
    routes = ["tls://a.example.org:6222", "tls://b.example.org:6300", "tls://c.example.org:6222"]
    assert all(one["cluster"]["routes"] == routes for one in found)
    assert len({one["server_name"] for one in found}) == len({one["jetstream"]["store_dir"] for one in found}) == 3
    assert hub.settings().urls == (
        "tls://a.example.org:4222",
        "tls://b.example.org:4300",
        "tls://c.example.org:4222",
    )


def test_files_of_a_former_cluster_go_away(tmp_path):
    hub, parties = make(tmp_path, hosts=("a", "b", "c"), cluster=3, own_server=False)
    configure(hub, hosts=("a",), cluster=1)
    write_server_configs(hub, parties)
    assert [path.name for path in hub.server.glob("*.conf")] == ["server.conf"]


def test_a_revoked_party_and_a_withdrawn_token_are_no_users(tmp_path):
    hub, parties = make(tmp_path, hosts=("localhost",))
    guys = parties.member("guys").public_key
    parties.revoke("guys")
    parties.revoke("kings")
    [config] = server_configs(hub, parties).values()
    assert config["host"] == "127.0.0.1"
    keys = {one["nkey"] for one in config["accounts"]["POLYCLINIC"]["users"]}
    assert guys not in keys
    assert parties.member("ada").public_key in keys
    # Ada's and Guys' tokens were used, and have users until they expire, so that a thief is told so.
    assert len(keys) == 1 + 1 + 2


def test_no_secret_is_in_a_configuration(tmp_path):
    hub, parties = make(tmp_path, hosts=("localhost",))
    [path] = write_server_configs(hub, parties)
    assert hub.admin.seed not in path.read_text()
    assert hub.system.seed not in path.read_text()


def test_check_config_tells_what_is_wrong(tmp_path):
    (tmp_path / "server.conf").write_text('{"port": "no port"}')
    with pytest.raises(HubError, match="does not take"):
        check_config(tmp_path / "server.conf")
