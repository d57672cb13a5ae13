"""What Ray cannot do is one line, at once."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from typing import Any

import pytest

from recbole_siger.errors import UserError
from recbole_siger.parallel.ray import check_room, connected, rooms


def deaf_port() -> int:
    """Return a port of this machine where nothing listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens(scheme: str) -> None:
    pytest.importorskip("ray")
    address = f"{scheme}127.0.0.1:{deaf_port()}"
    complaint = rf"^--address={address}: no Ray there: .*refused.*`ray start --head`$"
    with pytest.raises(UserError, match=complaint), connected(address, "tune"):
        pass


@pytest.mark.parametrize("address", ["nonsense", "ray://head", "head:", ":6379", "head:99999"])
def test_what_is_no_address(address: str) -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(UserError, match=f"--address={address}: write auto, HOST:PORT or ray://HOST:PORT"),
        connected(address, "tune"),
    ):
        pass


def test_a_head_that_starts_no_server_for_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    told = "Initialization failure from server:\nTraceback (most recent call last):\nRuntimeError: "

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionAbortedError(f"{told}Starting Ray client server failed. See x.err for detailed logs.")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        address = f"ray://127.0.0.1:{head.getsockname()[1]}"
        complaint = rf"^--address={address}: Starting Ray client server failed: .*GRPC_ENABLE_FORK_SUPPORT=0"
        with pytest.raises(UserError, match=complaint), connected(address, "tune"):
            pass


def test_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    complaint = r"^tune requires Ray \(.*\): pip install 'ray\[tune\]>=2.40'$"
    with pytest.raises(UserError, match=complaint), connected(None, "tune"):
        pass


def test_a_cluster_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}])

    def lose(error: Exception) -> None:
        with connected(None, "tune") as (_, about):
            assert about == "Ray: 1 node, 1 CPU, 0 GPU"
            raise error

    with pytest.raises(UserError, match=r"^Ray: System error: the node is gone$"):
        lose(ray.exceptions.RaySystemError("the node\nis gone"))
    complaint = r"^Ray: the cluster is lost \(Client is shutting down\); finished work is stored, resume it$"
    with pytest.raises(UserError, match=complaint):
        lose(ConnectionError("Client is shutting down."))
    with pytest.raises(BrokenPipeError):
        lose(BrokenPipeError("of whoever reads what is printed"))


def test_a_process_needs_its_room_on_one_node(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    nodes: list[dict[str, Any]] = [
        {"Alive": True, "Resources": {"CPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 1.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    assert rooms({"CPU": 1.0, "GPU": 0.0}) == 2
    assert rooms({"CPU": 2.0, "GPU": 0.0}) == 0
    assert rooms({"CPU": 0.1}) == 20
    assert rooms({"CPU": 0.1, "GPU": 0.25}) == 4
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    check_room(2, {"CPU": 1.0, "GPU": 0.0}, "--workers=2", "lower --workers")
    complaint = (
        r"^nproc=2: a process requires 1 CPU and 1 GPU on one node, and there is room for 1 of 2 "
        r"\(Ray: 2 nodes, 2 CPU, 1 GPU\); lower nproc$"
    )
    with pytest.raises(UserError, match=complaint):
        check_room(2, {"CPU": 1.0, "GPU": 1.0}, "nproc=2", "lower nproc")


def test_an_address_of_the_environment_is_named_by_its_variable() -> None:
    pytest.importorskip("ray")
    with (
        pytest.raises(UserError, match=r"^RAY_ADDRESS=nonsense: write auto, HOST:PORT or ray://HOST:PORT$"),
        connected("nonsense", "extract", option="RAY_ADDRESS", library="data"),
    ):
        pass


@pytest.mark.parametrize("kind", [Exception, RuntimeError, OSError])
def test_a_start_that_fails_is_one_line(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine Ray raises a plain Exception after half a minute."""
    ray = pytest.importorskip("ray")

    def fail(*_: Any, **options: Any) -> None:
        raise kind("The current node timed out\nduring startup.")

    monkeypatch.setattr(ray, "init", fail)
    complaint = "^Ray does not start on this machine: The current node timed out during startup.$"
    with pytest.raises(UserError, match=complaint), connected(None, "tune"):
        pass


LISTENERS = """
import ray
from recbole_siger.parallel.ray import connected
with connected(None, "tune"):
    ray.get(ray.remote(num_cpus=1)(lambda: None).remote())
    import psutil  # Ray brings it
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        for one in process.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN:
                print("listens", one.laddr.ip)
"""


def test_a_ray_started_here_listens_on_the_loopback_only() -> None:
    """In a process of its own, because this one may hold a Ray that its test has started."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS], capture_output=True, text=True, check=True, timeout=300
    )
    places = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("listens")]
    assert len(places) > 3
    assert all(ipaddress.ip_address(place.removeprefix("::ffff:")).is_loopback for place in places), places
