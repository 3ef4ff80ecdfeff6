"""polyclinic hub, node join and federation use, with a hub that runs."""

import asyncio
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.errors import ConfigError, FederationError, HubError, JoinRefused
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.identity import Identity
from polyclinic.node.registry import identifier

_spec = spec_from_file_location("federation_fixtures", Path(__file__).parents[1] / "federation" / "conftest.py")
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    running = _fixtures.RunningHub(tmp_path_factory.mktemp("hub") / "hub")
    try:
        yield running.start()
    finally:
        running.kill()


@pytest.fixture
def run(tmp_path, monkeypatch, hub):
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "place"))
    monkeypatch.setenv("POLYCLINIC_HUB", str(hub.folder.path))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        result = CliRunner().invoke(app, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def test_a_hospital_joins_with_the_line_that_invite_prints(run, tmp_path):
    invited = run("hub", "invite", "node", "Guy's Hospital", "--valid-for", "2h")
    [token] = invited.stdout.splitlines()
    assert "polyclinic node join TOKEN" in invited.stderr
    said = run("node", "join", token).output
    identity = Identity.load(tmp_path / "place" / "guy-s-hospital" / "hub")
    assert identity.keys.public_key in said
    assert "guy-s-hospital" in run("federation", "show").output
    with pytest.raises(JoinRefused, match="used already"):
        run("node", "join", token, "--at", str(tmp_path / "thief"))
    assert not (tmp_path / "thief" / "guy-s-hospital").exists()


def test_a_node_that_is_there_keeps_its_datasets(run, tmp_path):
    run("node", "create", "Kings")
    table = tmp_path / "t.csv"
    table.write_text("age,num\n" + "\n".join(f"{i},{i % 2}" for i in range(20)))
    run("node", "add-dataset", "kings", "tabular", "--path", str(table), "--target", "num", "--tags", "heart")
    run("node", "join", run("hub", "invite", "node", "kings").stdout)
    assert "heart" in run("node", "show", "kings").output


def test_a_researcher_joins_and_changes_to_and_fro(run, hub):
    token = run("hub", "invite", "researcher", "Ada").stdout
    said = run("federation", "use", token).output
    assert "as 'Ada' (id ada)" in said
    hub_id = identifier(hub.folder.settings().name)
    assert "the nodes at" in run("federation", "use", "local").output
    assert "as 'Ada' (id ada)" in run("federation", "use", hub_id).output
    with pytest.raises(FederationError, match="no researcher of this machine"):
        run("federation", "use", "nowhere")


def test_a_hub_behind_a_forwarded_port_is_dialled_there(run, hub, tmp_path):
    async def forward(reader, writer):
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", hub.port)

        async def pump(source, sink):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer), return_exceptions=True)

    async def main():
        async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.to_thread(run, "node", "join", token, "--dial", f"127.0.0.1:{port}")
            return port

    token = run("hub", "invite", "node", "Proxied").stdout
    port = event_loop.run(main())
    assert Identity.load(tmp_path / "place" / "proxied" / "hub").urls == (f"tls://127.0.0.1:{port}",)


def test_revoke_says_whom(run):
    run("node", "join", run("hub", "invite", "node", "Rogue").stdout)
    run("hub", "invite", "researcher", "Eve")
    assert run("hub", "revoke", "rogue").output == "Revoked node 'Rogue' (id rogue).\n"
    assert run("hub", "revoke", "Eve").output == "Withdrew the unused join token for 'Eve'.\n"
    with pytest.raises(HubError, match="nobody here is called 'rogue'"):
        run("hub", "revoke", "rogue")


def test_status_shows_parties_tokens_and_connections(run, hub, tmp_path):
    run("node", "join", run("hub", "invite", "node", "Here").stdout)
    run("hub", "invite", "node", "Not yet")

    async def connected():
        async with _fixtures.Party(Identity.load(tmp_path / "place" / "here" / "hub")):
            return await asyncio.to_thread(lambda: run("hub", "status").output)

    said = event_loop.run(connected())
    assert f"runs (process {hub.process.pid})" in said
    rows = {line.split("│")[1].strip(): line for line in said.splitlines() if line.startswith("│")}
    assert "from 127.0.0.1" in rows["here"]
    assert "node" in rows["not-yet"]
    assert {"REQUESTS", "REPLIES", "PAYLOADS", "KV_NODES"} <= set(rows)
    said = run("hub", "status").output
    assert "not connected" in next(line for line in said.splitlines() if line.startswith("│ here "))


def test_bad_words(run):
    with pytest.raises(ConfigError, match=r"'nodes' cannot be invited\n.*did you mean 'node'"):
        run("hub", "invite", "nodes", "X")
    with pytest.raises(ConfigError, match="'soon' is no length of time"):
        run("hub", "invite", "node", "X", "--valid-for", "soon")
    with pytest.raises(JoinRefused, match="no join token"):
        run("node", "join", "guys")
    with pytest.raises(JoinRefused, match="for a researcher"):
        run("node", "join", run("hub", "invite", "researcher", "Wrong way").stdout)


def test_config_of_a_cluster_is_printed_and_kept(run, tmp_path):
    place = str(tmp_path / "hub")
    said = run("hub", "config", "--at", place, "--cluster", "3", "--host", "a,b,c").output
    assert [line for line in said.splitlines() if line.startswith("#")] == [
        f"# {tmp_path / 'hub' / 'server' / f'server-{n}.conf'}" for n in (1, 2, 3)
    ]
    assert run("hub", "config", "--at", place).output == said
    with pytest.raises(HubError, match="cluster of 3 servers has 3 hosts"):
        run("hub", "config", "--at", place, "--host", "a")
    assert run("hub", "invite", "node", "Early", "--at", place).stderr.endswith("polyclinic hub start\n")
    assert run("hub", "stop", "--at", place).output == f"No hub runs at {place}.\n"


def test_what_the_hub_and_a_joining_node_load(run):
    """Neither the hub nor joining needs torch, pandas or scikit-learn."""
    program = (
        "import sys, polyclinic.cli.hub, polyclinic.federation.hub.running, polyclinic.federation.hub.status, "
        "polyclinic.federation.hub.joining, polyclinic.node.node\n"
        "print([name for name in ('torch', 'pandas', 'sklearn', 'scipy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8").stdout == "[]\n"
