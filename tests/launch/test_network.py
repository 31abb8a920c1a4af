"""Where nodes meet: addresses from params and environments, and the interface that has them."""

import socket

import pytest

from reprogpt.config import RuntimeConfig
from reprogpt.errors import ConfigError
from reprogpt.launch.network import (
    Rendezvous,
    bind_to,
    first_host,
    interface_of,
    listen,
    node_rank,
    route_to,
)
from tests.tiny_runs import config


def runtime(**changes: object) -> RuntimeConfig:
    return config(runtime={"launcher": "c10d", **changes}).runtime


@pytest.mark.parametrize(("params", "environment", "expected"), [
    ({"nodes": 2, "rendezvous": "10.0.0.1:29500"}, {}, "2 at 10.0.0.1:29500"),
    ({"nodes": 2, "rendezvous": "10.0.0.1"}, {"MASTER_PORT": "7"}, "2 at 10.0.0.1:7"),
    ({"nodes": 2, "rendezvous": "[fd00::1]:29500"}, {}, "2 at [fd00::1]:29500"),
    ({"nodes": 3, "rendezvous": "a:1"}, {"MASTER_ADDR": "b", "NNODES": "9"}, "3 at a:1"),
    ({}, {"MASTER_ADDR": "head", "MASTER_PORT": "5", "NNODES": "4"}, "4 at head:5"),
    ({}, {"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NUM_NODES": "2"},
     "2 at 10.0.0.5:29400"),
    ({}, {"SLURM_JOB_NODELIST": "gpu[07-09,12]", "SLURM_JOB_NUM_NODES": "4"}, "4 at gpu07:29400"),
])
def test_the_environment_says_what_params_do_not(
        params: dict[str, object], environment: dict[str, str], expected: str) -> None:
    found = Rendezvous.of(runtime(**params), environment)
    assert f"{found.nodes} at {found}" == expected


@pytest.mark.parametrize(("params", "environment", "key"), [
    ({"rendezvous": "a:1"}, {}, "runtime.nodes"),
    ({"nodes": 2}, {}, "runtime.rendezvous"),
    ({}, {"MASTER_ADDR": "a", "NNODES": "1:2"}, "NNODES"),
])
def test_what_nothing_says_is_asked_for(
        params: dict[str, object], environment: dict[str, str], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Rendezvous.of(runtime(**params), environment)


@pytest.mark.parametrize("changes", [
    {"launcher": "torchrun", "nodes": 2}, {"launcher": "slurm", "rendezvous": "a:1"},
    {"launcher": "c10d", "nodes": 0}, {"launcher": "c10d", "rendezvous": "a b"},
    {"launcher": "c10d", "rendezvous": "tcp://a:1"}])
def test_params_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.(nodes|rendezvous)"):
        config(runtime=changes)


def test_node_rank_and_the_first_host_of_a_list() -> None:
    assert node_rank({}) is None
    assert node_rank({"NODE_RANK": "0"}) == 0
    assert node_rank({"SKYPILOT_NODE_RANK": "3"}) == 3
    assert [first_host(x) for x in ("n1", "n1,n2", "n[1-3]", "a-b[003,7],c", "")] == [
        "n1", "n1", "n1", "a-b003", ""]


def test_an_interface_is_found_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    assert interface_of("127.0.0.1") == interface_of("::1") == "lo"
    assert interface_of("203.0.113.9") is None
    assert bind_to("127.0.0.1") == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}
    with pytest.raises(ConfigError, match="GLOO_SOCKET_IFNAME"):
        bind_to("203.0.113.9")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert bind_to("127.0.0.1")["GLOO_SOCKET_IFNAME"] == "eth7"
    assert route_to("127.0.0.1", 1) == "127.0.0.1"


def test_listening_is_on_one_address() -> None:
    with listen("127.0.0.1", 0) as server:
        assert server.getsockname()[0] == "127.0.0.1"
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)
    for everywhere_or_elsewhere in ("0.0.0.0", "203.0.113.9", "no-such-host.invalid"):
        with pytest.raises(ConfigError, match=r"runtime\.rendezvous"):
            listen(everywhere_or_elsewhere, 0)
    assert socket.has_ipv6
