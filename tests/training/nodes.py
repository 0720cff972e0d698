"""Two simulated nodes: network namespaces, each with an address and a host name, and a link between them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

INTERFACE = "cable0"


class Node:
    def __init__(self, number: int) -> None:
        self.name = f"node-{number}"
        self.space = f"maris-{os.getpid()}-{number}"
        self.address = f"10.213.7.{number + 1}"

    def command(self, *command: str) -> tuple[str, ...]:
        """``command`` on this node."""
        named = ("unshare", "--uts", "sh", "-c", f'hostname {self.name} && exec "$@"', "sh")
        return ("ip", "netns", "exec", self.space, *named, *command)

    def cut(self) -> None:
        """Take the link down."""
        _ip("-n", self.space, "link", "set", INTERFACE, "down")


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """
    Raises:
        OSError, subprocess.CalledProcessError: this machine or user cannot create network namespaces.
    """
    nodes = Node(0), Node(1)
    try:
        for node in nodes:
            _ip("netns", "add", node.space)
        first, second = (("name", INTERFACE, "netns", node.space) for node in nodes)
        _ip("link", "add", *first, "type", "veth", "peer", *second)
        for node in nodes:
            _ip("-n", node.space, "address", "add", f"{node.address}/24", "dev", INTERFACE)
            _ip("-n", node.space, "link", "set", INTERFACE, "up")
            _ip("-n", node.space, "link", "set", "lo", "up")
        subprocess.run(nodes[0].command("true"), check=True, capture_output=True, text=True)
        yield nodes
    finally:
        for node in nodes:
            subprocess.run(("ip", "netns", "del", node.space), capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(("ip", *arguments), check=True, capture_output=True, text=True)
