"""The configuration of nats-server: TLS, limits, and one user for each party with what it may do.

It is plain JSON, which nats-server reads like its own format. All paths in it are relative: the server runs in the
folder ``server`` of the hub, wherever that is mounted. A cluster has one file for each server, which differ in its
name, addresses and store.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from polyclinic.federation.hub.layout import HubFolder, Settings
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.subjects import Permissions

ACCOUNT = "POLYCLINIC"
SYSTEM = "SYS"
_CLUSTER_PORT_AFTER = 2000


def server_configs(hub: HubFolder, parties: Parties) -> dict[str, dict[str, Any]]:
    """The configuration of each server, by the name of its file."""
    settings = hub.settings()
    accounts = _accounts(hub, parties, settings)
    if settings.cluster == 1:
        own = _server(settings, 0) | accounts
        return {"server.conf": own}
    every = range(settings.cluster)
    return {f"server-{i + 1}.conf": _server(settings, i) | _cluster(settings, i) | accounts for i in every}


def write_server_configs(hub: HubFolder, parties: Parties) -> list[Path]:
    """Writes them into the folder ``server``; a file changes as a whole."""
    hub.server.mkdir(parents=True, exist_ok=True, mode=0o700)
    written = []
    for name, config in server_configs(hub, parties).items():
        partial = hub.server / f"{name}.partial"
        partial.write_text(as_text(config), encoding="utf-8")
        written.append(partial.replace(hub.server / name))
    for other in {*hub.server.glob("server*.conf")} - {*written}:
        other.unlink()
    return written


def as_text(config: dict[str, Any]) -> str:
    """As it stands in the file."""
    return json.dumps(config, indent=1, ensure_ascii=False) + "\n"


def _server(settings: Settings, index: int) -> dict[str, Any]:
    several = settings.cluster > 1
    port = settings.addresses[index][1] if several else settings.port
    config: dict[str, Any] = {
        "server_name": f"polyclinic-{index + 1}",
        "host": settings.bind,
        "port": port,
        "max_payload": subjects.MAX_MESSAGE_BYTES,
        "max_connections": 10_000,
        # A party that vanished is noticed after three of these.
        "ping_interval": "10s",
        "ping_max": 3,
        # Handshakes of many parties at once, after a restart, take a small machine their time.
        "tls": _tls(timeout=20, handshake_first=True),
        "jetstream": {
            "store_dir": f"store-{index + 1}" if several else "store",
            "max_file_store": settings.max_disk_bytes,
            "max_memory_store": 64 << 20,
            # What a power cut may take; a killed server loses nothing.
            "sync_interval": "10s",
        },
    }
    if settings.own_server:
        config |= {"log_file": "server.log", "logfile_size_limit": 10 << 20, "logfile_max_num": 5}
    if settings.websocket_port is not None:
        config["websocket"] = {"host": settings.bind, "port": settings.websocket_port, "tls": _tls()}
    return config


def _tls(**more: Any) -> dict[str, Any]:
    return {"cert_file": "server.pem", "key_file": "server.key", "min_version": "1.3"} | more


def _cluster(settings: Settings, index: int) -> dict[str, Any]:
    routes = [f"tls://{host}:{port + _CLUSTER_PORT_AFTER}" for host, port in settings.addresses]
    return {
        "cluster": {
            "name": "polyclinic",
            "host": settings.bind,
            "port": settings.addresses[index][1] + _CLUSTER_PORT_AFTER,
            "routes": routes,
            # Only this hub's authority signs, so a certificate of its own is what makes a server one of the cluster.
            "tls": _tls(ca_file="ca.pem", verify=True, timeout=20),
        }
    }


def _accounts(hub: HubFolder, parties: Parties, settings: Settings) -> dict[str, Any]:
    users: list[dict[str, Any]] = [{"nkey": hub.admin.public_key}]
    users += [_user(p.public_key, subjects.permissions(p.role, p.party_id)) for p in parties.members()]
    users += [_user(i.public_key, subjects.joining_permissions(i.token_id)) for i in parties.invitations()]
    return {
        "accounts": {
            ACCOUNT: {
                "jetstream": {
                    # Of the account, each copy counts.
                    "max_file": settings.max_disk_bytes * settings.cluster,
                    "max_memory": (64 << 20) * settings.cluster,
                    "max_streams": 8,
                    "max_consumers": -1,
                },
                "users": users,
            },
            SYSTEM: {"users": [{"nkey": hub.system.public_key}]},
        },
        "system_account": SYSTEM,
    }


def _user(public_key: str, allowed: Permissions) -> dict[str, Any]:
    return {
        "nkey": public_key,
        "permissions": {"publish": list(allowed.publish), "subscribe": list(allowed.subscribe)},
    }
