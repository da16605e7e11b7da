"""What the doctor makes of a machine: readings are made up, and so is what Redis says."""

from __future__ import annotations

import json
import re
from io import StringIO
from typing import Any

import msgspec
import pytest

from clarion_fanout.redis_scripts import SCRIPTS
from clarion_server.cli import main
from clarion_server.cli.terminal import Paint
from clarion_server.descriptors import shares
from clarion_server.doctor import (
    Part,
    check_machine,
    check_node,
    check_shard,
    redis_checks,
    redis_rights,
)
from clarion_server.doctor.finding import Finding, Plan, size
from clarion_server.doctor.host import clock_step
from clarion_server.doctor.machine import UNLIMITED, Machine
from clarion_server.doctor.network import files_for
from clarion_server.doctor.redis_node import Node
from clarion_server.doctor.redis_shards import Sentinel, Shard
from clarion_server.doctor.table import as_json, count, table

MIB, GIB = 1 << 20, 1 << 30

GOOD = Machine(
    system="Linux 6.12 x86_64",
    python=(3, 12, 4),
    implementation="CPython",
    packages={"uvloop": "0.23.0", "hiredis": "3.5.0"},
    files=(1_048_576, 1_048_576),
    files_system=1_048_576,
    ports=(32768, 60999),
    sockets_waiting=10,
    sockets_waiting_most=131_072,
    accept_queue=16_384,
    syn_queue=16_384,
    syn_cookies=True,
    tcp_pages=(300_000, 400_000, 600_000),
    tcp_pages_used=100,
    single_pages=True,
    send_buffer=(4096, 16384, 4_194_304),
    receive_buffer=(4096, 131_072, 6_291_456),
    tracked=100,
    tracked_most=262_144,
    cpus=4,
    governors=("performance (acpi-cpufreq)",),
    memory=16 * GIB,
    memory_free=12 * GIB,
    swap=0,
    swap_used=0,
    swappiness=60,
    huge_pages="madvise",
    clock_source="tsc",
    synchronised=True,
)
PLAN = Plan(connections=10_000, workers=2)

INFO = {
    "redis_version": "7.0.15",
    "role": "master",
    "cluster_enabled": "0",
    "loading": "0",
    "maxmemory": str(4 * GIB),
    "used_memory": str(100 * MIB),
    "maxmemory_policy": "noeviction",
    "maxclients": "10000",
    "connected_clients": "12",
    "connected_slaves": "0",
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
}
SETTINGS = {
    "client-output-buffer-limit": "normal 0 0 0 slave 1 1 60 pubsub 33554432 8388608 60",
    "timeout": "0",
    "appendfsync": "everysec",
    "save": "",
    "min-replicas-to-write": "1",
    "cluster-require-full-coverage": "no",
}
CLUSTER = {"cluster_state": "ok", "cluster_slots_ok": "16384", "cluster_size": "3"}
NODE = Node(
    shard="127.0.0.1:6379/0",
    address="127.0.0.1:6379",
    info=INFO,
    settings=SETTINGS,
    pings_s=(0.0002,) * 20,
    ahead_s=0.001,
    path="",
)
SENTINEL = {
    "flags": "master",
    "num-other-sentinels": "2",
    "quorum": "2",
    "down-after-milliseconds": "5000",
}


def but(**changes: Any) -> Machine:
    """The good machine, with other readings."""
    return msgspec.structs.replace(GOOD, **changes)


def node(
    info: dict[str, str] | None = None, settings: dict[str, str] | None = None, **changes: Any
) -> Node:
    """The good server, with other answers."""
    return msgspec.structs.replace(
        NODE, info=INFO | (info or {}), settings=SETTINGS | (settings or {}), **changes
    )


def found(findings: list[Finding], name: str) -> Finding:
    (finding,) = [each for each in findings if each.name == name]
    return finding


# The machine


def test_a_good_machine_has_nothing_to_look_at() -> None:
    findings = check_machine(GOOD, PLAN)
    assert [each for each in findings if each.state != "ok"] == []
    assert len({each.name for each in findings}) == len(findings)


@pytest.mark.parametrize(
    ("changes", "name", "state", "change"),
    [
        ({"python": (3, 10, 2)}, "Python", "bad", "PYTHON="),
        ({"implementation": "PyPy"}, "Python", "bad", "PYTHON="),
        ({"debugging": True}, "Python", "warn", "PYTHONDEVMODE"),
        ({"packages": {"uvloop": "0.23.0"}}, "compiled parts", "bad", "requirements.txt"),
        ({"cpus": 1}, "processors", "warn", "--workers 1"),
        ({"cpu_quota": 1.5}, "processors", "warn", "cpu.max '200000 100000'"),
        ({"governors": ("powersave (acpi-cpufreq)",)}, "CPU governor", "warn", "cpupower"),
        ({"memory_free": 64 * MIB}, "memory", "bad", "more memory"),
        ({"memory_limit": 128 * MIB}, "memory", "bad", "memory.max"),
        ({"swap": GIB, "swap_used": 5}, "swap", "warn", "vm.swappiness=10"),
        ({"huge_pages": "always"}, "transparent huge pages", "warn", "echo madvise"),
        ({"synchronised": False}, "clock kept", "warn", "set-ntp"),
        ({"clock_source": "hpet"}, "clock read", "warn", "echo tsc"),
        # 10,000 on two workers: half as many again for each, when the other is gone for a moment.
        ({"files": (1024, 4096)}, "open files", "bad", "LimitNOFILE=7895"),
        ({"files": (6000, 6000)}, "open files", "warn", "/etc/security/limits.conf"),
        ({"files": (1024, 1024), "files_system": 2048}, "open files", "bad", "fs.nr_open=7895"),
        ({"accept_queue": 128}, "somaxconn", "warn", "net.core.somaxconn=8192"),
        (
            {"syn_queue": 256, "syn_cookies": False},
            "tcp_max_syn_backlog",
            "warn",
            "tcp_syncookies=1",
        ),
        ({"ports": (1024, 65535)}, "ip_local_port_range", "warn", "reserved_ports=8000,8001"),
        ({"ports": (10_000, 12_000)}, "ip_local_port_range", "warn", "balancer"),
        ({"sockets_waiting": 100_000}, "TIME_WAIT", "warn", "ss -tan"),
        ({"tcp_pages": (1000, 2000, 3000)}, "tcp_mem", "warn", "net.ipv4.tcp_mem='"),
        (
            {"single_pages": False},
            "high_order_alloc_disable",
            "warn",
            "net.core.high_order_alloc_disable=1",
        ),
        ({"send_buffer": (4096, 4_194_304, 4_194_304)}, "tcp_wmem, tcp_rmem", "warn", "tcp_wmem="),
        ({"send_buffer": (4096, 16384, 16384)}, "tcp_wmem, tcp_rmem", "warn", "tcp_wmem="),
        ({"tracked_most": 12_000}, "conntrack", "warn", "nf_conntrack_max=12600"),
        ({"tracked_most": 8_000}, "conntrack", "bad", "nf_conntrack_max="),
    ],
)
def test_what_is_wrong_with_a_machine_is_said_with_what_changes_it(
    changes: dict[str, Any], name: str, state: str, change: str
) -> None:
    findings = check_machine(but(**changes), PLAN)
    finding = found(findings, name)
    assert finding.state == state
    assert change in finding.change
    assert finding.wanted
    assert finding.why
    assert [each.name for each in findings if each.state != "ok"] == [name]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"governors": ("powersave (intel_pstate)",)}, "CPU governor"),
        ({"files": (UNLIMITED, UNLIMITED)}, "open files"),
        # The server raises the soft limit itself.
        ({"files": (1024, 1_048_576)}, "open files"),
        ({"ports": (1024, 65535), "reserved": "80,7999-8001"}, "ip_local_port_range"),
        ({"tracked": 0, "tracked_most": 10}, "conntrack"),
        ({"tracked": None, "tracked_most": None}, "conntrack"),
        ({"swap": GIB, "swappiness": 1}, "swap"),
        ({"syn_queue": 16}, "tcp_max_syn_backlog"),
        ({"cpu_quota": 2.0}, "processors"),
    ],
)
def test_what_only_looks_wrong_is_in_order(changes: dict[str, Any], name: str) -> None:
    assert found(check_machine(but(**changes), PLAN), name).state == "ok"


def test_a_machine_that_says_nothing_is_unknown_and_not_bad() -> None:
    mute = Machine(
        system="Darwin 24.1 arm64",
        python=(3, 12, 4),
        implementation="CPython",
        packages=GOOD.packages,
    )
    states = {each.name: each.state for each in check_machine(mute, PLAN)}
    assert states.pop("Python") == states.pop("compiled parts") == "ok"
    assert states.pop("conntrack") == "ok"
    assert set(states.values()) == {"unknown"}


def test_more_connections_ask_for_more() -> None:
    machine = but(files=(1024, 20_000))
    seen = [
        found(check_machine(machine, Plan(connections=number)), "open files")
        for number in (10_000, 19_000, 19_001, 100_000)
    ]
    assert [each.state for each in seen] == ["ok", "ok", "bad", "bad"]
    assert seen[-1].change.startswith("LimitNOFILE=101024 ")


@pytest.mark.parametrize("connections", [10, 1000, 1216, 1217, 19_455, 19_456, 10**6])
def test_the_files_that_are_wanted_are_those_that_the_server_needs(connections: int) -> None:
    files = files_for(connections)
    assert shares(files).connected >= connections > shares(files - 3).connected


def test_histories_need_memory_where_they_are_kept_in_the_process() -> None:
    machine = but(memory_free=300 * MIB)
    assert found(check_machine(machine, PLAN), "memory").state == "ok"
    plan = PLAN._replace(history_bytes=256 * MIB)
    assert "history.memory_bytes" in found(check_machine(machine, plan), "memory").change


def test_a_clock_that_is_set_is_noticed_and_one_that_is_slewed_is_not() -> None:
    assert clock_step(0.0005, 1.0).state == "ok"
    assert clock_step(-0.2, 1.0).state == "warn"


def test_sizes_are_told_for_people() -> None:
    assert [size(n) for n in (12, 2048, 32 * MIB, 1.5 * GIB)] == [
        "12 bytes",
        "2 KiB",
        "32 MiB",
        "1.5 GiB",
    ]


# Redis


def test_a_good_server_has_nothing_to_look_at() -> None:
    assert [each for each in check_node(NODE, PLAN) if each.state != "ok"] == []


@pytest.mark.parametrize(
    ("server", "name", "state", "change"),
    [
        (node({"redis_version": "6.2.14"}), "version", "bad", "redis 7"),
        (node({"role": "slave", "master_host": "a", "master_port": "1"}), "role", "bad", "primary"),
        (node({"loading": "1"}), "role", "bad", "wait"),
        (node({"cluster_enabled": "1"}), "role", "bad", "redis+cluster://"),
        (node(path="no answer"), "publish and receive", "bad", "pub/sub"),
        (node(refused=("XADD a", "GET b")), "permissions", "bad", "ACL SETUSER default '~clarion:"),
        (node(near=False), "encryption, login", "warn", "rediss://"),
        (node(near=False, login="worker"), "encryption, login", "warn", "rediss://"),
        (node(pings_s=(0.004,) * 20), "round trip", "warn", "SLOWLOG"),
        (node(pings_s=(0.6,) * 20), "round trip", "bad", "SLOWLOG"),
        (
            node(settings={"client-output-buffer-limit": "pubsub 1048576 0 0"}),
            "client-output-buffer-limit",
            "warn",
            "pubsub 33554432",
        ),
        (
            node(settings={"client-output-buffer-limit": "pubsub 0 0 0"}),
            "client-output-buffer-limit",
            "warn",
            "pubsub 33554432",
        ),
        (node({"maxmemory_policy": "allkeys-lru"}), "maxmemory", "bad", "noeviction"),
        (node({"maxmemory": "0"}), "maxmemory", "warn", "CONFIG SET maxmemory"),
        (node({"used_memory": str(4 * GIB)}), "maxmemory", "warn", "further shard"),
        (node({"maxclients": "18"}), "maxclients", "bad", "maxclients 25"),
        (node({"maxclients": "22"}), "maxclients", "warn", "maxclients 25"),
        (node(settings={"timeout": "5"}), "timeout", "warn", "timeout 0"),
        (node({"aof_enabled": "0"}), "persistence", "warn", "appendonly yes"),
        (node({"aof_enabled": "0"}, {"save": "60 1"}), "persistence", "warn", "appendonly yes"),
        (node({"aof_last_write_status": "err"}), "persistence", "bad", "df -h"),
        (node(certificate_s=9 * 86_400), "certificate", "warn", "tls-cert-file"),
        (node(ahead_s=-7.0), "clock", "warn", "chrony"),
        (node(pool="sentinel"), "replicas", "warn", "REPLICAOF 127.0.0.1 6379"),
        (
            node({"connected_slaves": "2"}, {"min-replicas-to-write": "0"}, pool="sentinel"),
            "replicas",
            "warn",
            "min-replicas-to-write 1",
        ),
        (
            node({"connected_slaves": "1"}, {"min-replicas-to-write": "2"}, pool="sentinel"),
            "replicas",
            "bad",
            "min-replicas-to-write 1",
        ),
    ],
)
def test_what_is_wrong_with_a_server_is_said_with_what_changes_it(
    server: Node, name: str, state: str, change: str
) -> None:
    findings = check_node(server, PLAN)
    finding = found(findings, name)
    assert finding.state == state
    assert change in finding.change
    assert finding.wanted
    assert finding.why
    assert [each.name for each in findings if each.state != "ok"] == [name]


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (CLUSTER, "ok"),
        (CLUSTER | {"cluster_state": "fail"}, "bad"),
        (CLUSTER | {"cluster_slots_ok": "16383"}, "bad"),
        (None, "bad"),
    ],
)
def test_a_cluster_that_lacks_slots_is_bad(facts: dict[str, str] | None, state: str) -> None:
    server = node({"cluster_enabled": "1"}, pool="cluster", cluster=facts)
    assert found(check_node(server, PLAN), "cluster").state == state


def test_a_cluster_that_stops_as_a_whole_is_worth_a_word() -> None:
    whole = node(
        {"cluster_enabled": "1"},
        {"cluster-require-full-coverage": "yes"},
        pool="cluster",
        cluster=CLUSTER,
    )
    assert "full-coverage no" in found(check_node(whole, PLAN), "cluster").change


def test_what_a_provider_does_not_tell_is_unknown_and_not_bad() -> None:
    silent = msgspec.structs.replace(NODE, settings=None, ahead_s=None)
    unknown = [each.name for each in check_node(silent, PLAN) if each.state != "ok"]
    assert unknown == ["client-output-buffer-limit", "timeout", "clock"]


def test_a_server_that_cannot_be_asked_has_one_finding() -> None:
    (finding,) = check_node(Node(shard="a", error="does not answer within 2 s"), PLAN)
    assert (finding.name, finding.state) == ("reachable", "bad")


def test_where_scripts_do_not_run_permissions_are_not_guessed_at() -> None:
    findings = check_node(node(scripts="NOPERM"), PLAN)
    assert found(findings, "scripts").state == "bad"
    assert "permissions" not in [each.name for each in findings]


def test_valkey_is_called_by_its_name() -> None:
    finding = redis_checks.version(
        node({"redis_version": "7.2.4", "valkey_version": "8.0.1"}), PLAN
    )
    assert (finding.found, finding.state) == ("Valkey 8.0.1", "ok")


@pytest.mark.parametrize("pool", ["server", "cluster"])
def test_the_rules_for_a_user_name_every_command_that_is_checked(pool: redis_rights.Pool) -> None:
    rules = redis_rights.rules("mine", pool).replace("'", "").split()
    assert rules[:2] == ["~mine:*", "&mine:*"]
    for first, *_ in redis_rights.commands("mine", pool):
        assert any(rule.split("|")[0] == f"+{str(first).lower()}" for rule in rules)


def test_the_commands_of_every_script_are_checked() -> None:
    checked = {str(first) for first, *_ in redis_rights.commands("clarion", "server")}
    for script in SCRIPTS:
        called = re.findall(r"redis\.p?call\('([A-Z]+)'", script.text.decode())
        assert set(called) <= checked, script.name


# Sentinels


def states(shard: Shard) -> dict[str, str]:
    """The state of each check of the shard's Sentinels."""
    return {each.name: each.state for part in check_shard(shard, PLAN) for each in part.findings}


def sentinels(*errors: str, **changes: str) -> Shard:
    """A shard with a Sentinel for each of `errors`, which may be none."""
    return Shard(
        location="orders/0",
        service="orders",
        sentinels=tuple(
            Sentinel(address="a:1", error=error)
            if error
            else Sentinel(address="a:1", service=SENTINEL | changes)
            for error in errors
        ),
    )


def test_three_sentinels_that_agree_are_in_order() -> None:
    assert set(states(sentinels("", "", "")).values()) == {"ok"}


@pytest.mark.parametrize(
    ("shard", "name", "state"),
    [
        (sentinels("", "gone", ""), "Sentinels", "warn"),
        (sentinels("gone", "gone"), "Sentinels", "bad"),
        (sentinels("", quorum="5"), "quorum", "bad"),
        (sentinels("", flags="master,o_down"), "quorum", "bad"),
        (sentinels("", **{"num-other-sentinels": "1"}), "quorum", "warn"),
        (
            sentinels("", **{"down-after-milliseconds": "30000"}),
            "down-after-milliseconds",
            "warn",
        ),
    ],
)
def test_what_would_keep_a_failover_from_happening_is_said(
    shard: Shard, name: str, state: str
) -> None:
    assert {key: value for key, value in states(shard).items() if value != "ok"} == {name: state}


def test_a_shard_that_nobody_knows_is_bad() -> None:
    assert states(Shard(location="a", error="is not known to the Sentinels"))["found"] == "bad"


# What is shown

SHOWN = [
    Part("machine", [Finding("files", "ok", "20,000"), Finding("clock", "unknown", "?", "", "so")]),
    Part("shard a", [Finding("memory", "bad", "1 of 2", "3", "Because.", "CONFIG SET x y")]),
]


def test_a_table_says_what_to_do_where_there_is_something_to_do() -> None:
    assert "\n".join(table(SHOWN, Paint(StringIO()))).splitlines() == [
        "machine",
        "  ok    files   20,000",
        "  ?     clock   ?",
        "        why     so",
        "",
        "shard a",
        "  BAD   memory  1 of 2",
        "        wanted  3",
        "        why     Because.",
        "        change  CONFIG SET x y",
        "",
        "1 in order, 1 bad, 1 unknown",
    ]
    assert count(SHOWN) == {"ok": 1, "unknown": 1, "bad": 1}


def test_what_a_server_says_of_itself_cannot_move_the_cursor() -> None:
    parts = [Part("a\x1b[2J", [Finding("version", "bad", "7\x1b[1A", "x", "y", "z\x07")])]
    assert "\x1b" not in "".join(table(parts, Paint(StringIO())))


def test_programs_get_the_same_as_json() -> None:
    content = json.loads(as_json(SHOWN))
    assert content["ok"] is False
    assert content["counts"] == {"ok": 1, "warn": 0, "bad": 1, "unknown": 1}
    assert content["parts"][1]["findings"][0] == {
        "name": "memory",
        "state": "bad",
        "found": "1 of 2",
        "wanted": "3",
        "why": "Because.",
        "change": "CONFIG SET x y",
    }


# The command


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLARION_CONFIG", "CLARION_REDIS"):
        monkeypatch.delenv(name, raising=False)


def test_the_command_looks_at_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--json", "--connections", "1"])
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] is (status == 0)
    (machine,) = content["parts"]
    names = {finding["name"]: finding for finding in machine["findings"]}
    assert names["compiled parts"]["state"] == names["Python"]["state"] == "ok"
    assert names["clock steps"]["state"] in ("ok", "warn")


def test_what_is_bad_is_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["doctor", "--redis", "redis://:hunter2@127.0.0.1:1/0", "--connections", "1"])
    out = capsys.readouterr().out
    assert status == 1
    assert "cannot be reached" in out
    assert "hunter2" not in out


@pytest.mark.parametrize("number", ["0", "-3", "many"])
def test_connections_are_a_number_of_some(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--connections", number])
    assert ended.value.code == 2
    assert "--connections" in capsys.readouterr().err
