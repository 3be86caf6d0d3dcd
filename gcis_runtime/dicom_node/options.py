"""Define what a DICOM node accepts, when a series is complete, and the limits of both."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.dicom_node.titles import check_title
from gcis_runtime.errors import OutputError

_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """What a DICOM node accepts, and when a series is complete.

    Attributes:
        folder: Folder of received series and results, which is created, readable for this user only.
        callers: AE titles of the nodes that may connect.
        title: AE title of this node; other called titles are rejected.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        peers: Networks from which nodes may connect, such as `10.1.0.0/16`. DICOM has no authentication and
            AE titles are no secret: an address other than the local host requires `peers`.
        quiet_seconds: A series is complete if nothing of it arrived for this time.
        at_release: A series is also complete as soon as every association that sent some of it has ended.
        associations: Largest number of associations at the same time.
        instance_bytes: Largest size of an instance, which is in memory while it arrives.
        waiting_bytes: Largest size of what arrives on all associations at the same time; those with more
            than their share are ended above it.
        series_bytes: Largest size of a series.
        most_series: Largest number of series in `folder`, finished ones included; instances of further
            series are refused.
        reserve_bytes: Space that stays free in `folder`; instances are refused before.
        keep_seconds: Age at which finished series and their results are removed.
        attempts: Number of times that a series is processed, if the function that processes it fails.
    """

    folder: Path
    callers: tuple[str, ...]
    title: str = "GCIS"
    host: str = "127.0.0.1"
    port: int = 11112
    peers: tuple[str, ...] = ()
    quiet_seconds: float = 30.0
    at_release: bool = False
    associations: int = 8
    instance_bytes: int = 1 << 30
    waiting_bytes: int = 2 << 30
    series_bytes: int = 8 << 30
    most_series: int = 10_000
    reserve_bytes: int = 1 << 30
    keep_seconds: float = 3600.0
    attempts: int = 3

    def __post_init__(self) -> None:
        for title in (self.title, *self.callers):
            check_title(title)
        if not self.callers:
            raise OutputError(
                "a DICOM node needs the AE titles that may connect",
                received="none",
                fix="Name the nodes that send studies.",
            )
        networks = self.networks
        if not self.peers and not any(_inside(self.host, network) for network in networks):
            raise OutputError(
                "a DICOM node that listens on the network needs the networks that may connect",
                received=f"the address {self.host} without a network",
                expected="networks such as 10.1.0.0/16",
                fix="DICOM has no authentication; name the addresses of the nodes that send studies.",
            )

    @property
    def networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Networks from which nodes may connect.

        Raises:
            OutputError: One is invalid.
        """
        try:
            return tuple(ipaddress.ip_network(peer) for peer in self.peers or _LOOPBACK)
        except ValueError as error:
            raise OutputError(
                "a network is invalid", received=str(error), expected="a network such as 10.1.0.0/16"
            ) from error

    def admits(self, address: str) -> bool:
        """Return whether a node with this address may connect."""
        return any(_inside(address, network) for network in self.networks)


def _inside(address: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    try:
        found = ipaddress.ip_address("127.0.0.1" if address == "localhost" else address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found) in network
