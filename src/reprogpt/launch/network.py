"""Addresses of a training over several nodes: where they meet, and by which network interface."""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from reprogpt.config import RuntimeConfig
from reprogpt.errors import ConfigError

DEFAULT_PORT = 29400  # torchrun's


@dataclass(frozen=True)
class Rendezvous:
    """Where the nodes of one training meet: the address at which node 0 listens."""

    nodes: int
    host: str
    port: int

    @classmethod
    def of(cls, runtime: RuntimeConfig, environ: Mapping[str, str] = os.environ) -> "Rendezvous":
        """From ``runtime.nodes`` and ``runtime.rendezvous``, or where they are absent, from the
        variables of SkyPilot, torchrun or Slurm. Raises ConfigError when nothing says it."""
        nodes = runtime.nodes or _first(environ, "SKYPILOT_NUM_NODES", "NNODES",
                                        "SLURM_JOB_NUM_NODES")
        address = urlsplit(f"//{runtime.rendezvous or ''}")
        host = (address.hostname or _first(environ, "MASTER_ADDR", "SKYPILOT_NODE_IPS")
                or first_host(environ.get("SLURM_JOB_NODELIST", "")))
        for key, value, example in (("nodes", nodes, "2"), ("rendezvous", host, "10.0.0.1:29400")):
            if not value:
                raise ConfigError(f"params.yaml: runtime.{key} must be set when launcher is 'c10d' "
                                  f"and no environment variable says it; e.g. {key}: {example}")
        try:
            port = address.port or int(_first(environ, "MASTER_PORT") or DEFAULT_PORT)
            return cls(int(nodes), host, port)
        except ValueError as error:
            raise ConfigError(f"params.yaml: runtime.nodes, runtime.rendezvous: {error}; correct "
                              "them, or NNODES and MASTER_PORT where these stand in") from None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def node_rank(environ: Mapping[str, str] = os.environ) -> int | None:
    """This machine's number among the nodes, where a launcher's variable says it."""
    found = _first(environ, "SKYPILOT_NODE_RANK", "NODE_RANK", "SLURM_NODEID")
    return int(found) if found.isdecimal() else None


def first_host(nodelist: str) -> str:
    """The first host of a list as Slurm writes it: node[07-09,12] begins with node07."""
    found = re.match(r"([^,\[]*)(?:\[(\w+))?", nodelist)
    return "".join(filter(None, found.groups())) if found else ""


def _first(environ: Mapping[str, str], *names: str) -> str:
    """The first word of the first variable that is set; SKYPILOT_NODE_IPS lists node 0 first."""
    return next((environ[name].split()[0] for name in names if environ.get(name, "").strip()), "")


def listen(host: str, port: int, key: str = "runtime.rendezvous") -> socket.socket:
    """A socket that listens on the one address of this machine that ``host`` names; port 0: any
    free one. Raises ConfigError when it is no address of this machine, or the port is taken."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Many systems map their own name to 127.0.1.1, which no other node can reach.
        family, *_, address = min(found, key=lambda f: ipaddress.ip_address(f[4][0]).is_loopback)
        if ipaddress.ip_address(address[0]).is_unspecified:
            raise OSError(0, "would listen on every interface")
        return socket.create_server(address[:2], family=family, backlog=64)
    except OSError as error:
        raise ConfigError(f"params.yaml: {key}={host}:{port} cannot be listened on "
                          f"({error.strerror or error}); name an address of node 0 and a free port"
                          ) from None


def interface_of(address: str) -> str | None:
    """The network interface that has this address; None where it cannot be found."""
    return next((name for name, found in psutil.net_if_addrs().items()
                 if any(one.address.partition("%")[0] == address for one in found)), None)


def bind_to(address: str) -> dict[str, str]:
    """Variables that make gloo and NCCL use only the interface of ``address``; what the user has
    set stays. Raises ConfigError when it has none."""
    given = {key: os.environ[key] for key in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
             if os.environ.get(key)}
    name = interface_of(address)
    if name is None and len(given) < 2:
        raise ConfigError(f"no network interface with the address {address} was found; set "
                          "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the one to use")
    # "=" makes NCCL take the name as a whole, not as the beginning of one.
    return {"GLOO_SOCKET_IFNAME": f"{name}", "NCCL_SOCKET_IFNAME": f"={name}"} | given


def route_to(host: str, port: int) -> str:
    """This machine's address on the way to ``host``. Nothing is sent."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
