"""What is under way outlives a cut of the network, and a client's new public address."""

from __future__ import annotations

import sys
import time

import pytest

from .processes import Process
from .test_networks import PUBLIC, STUN, Lab, lab, pytestmark  # noqa: F401  (the mark is this module's too)

SCRIPT = """
import hashlib, json, sys, threading, time, urllib.request
url, tokens, done = sys.argv[1], int(sys.argv[2]), []
def stream(name, count):
    last, worst, body = time.monotonic(), 0.0, b""
    with urllib.request.urlopen(f"{url}/tokens?name={name}&count={count}&pause=0.1", timeout=60) as answer:
        while piece := answer.readline():
            worst, last = max(worst, time.monotonic() - last), time.monotonic()
            body += piece
    whole = body == b"".join(b"data: %b %d\\n\\n" % (name.encode(), n) for n in range(count))
    done.append((whole, worst))
def exchange(body):
    target = "/echo" if body else "/big?size=8000000"
    with urllib.request.urlopen(urllib.request.Request(url + target, data=body), timeout=60) as answer:
        got = hashlib.sha256(answer.read()).hexdigest()
    done.append((not body or got == hashlib.sha256(body).hexdigest(), 0.0))
work = [(stream, f"s{n}", tokens) for n in range(20)] + [(exchange, b""), (exchange, bytes(range(256)) * 20000)]
threads = [threading.Thread(target=call, args=rest) for call, *rest in work]
[thread.start() for thread in threads]
print("begun", flush=True)
[thread.join() for thread in threads]
print("whole", sum(whole for whole, _ in done), "of", len(work), "worst", max(worst for _, worst in done), flush=True)
"""


def under_way(made: Lab, *flags: str, tokens: int = 220) -> tuple[Process, Process, Process]:
    """A tunnel from host-a to host-b, and a client there with streams of ten tokens a second, a download, an upload."""
    common = ("--room", "lab", "--signal", f"ws://{PUBLIC}:8787", "--json", *flags)
    upstream = made.run("host-a", "upstream", sys.executable, "-m", "tests.e2e.upstream", "9001")
    upstream.wait_line("upstream on")
    serve = made.llmtunnel("host-a", "serve", "--upstream", "127.0.0.1:9001", *common)
    serve.wait_event("signal-connected")
    proxy = made.llmtunnel("host-b", "proxy", "--listen", "127.0.0.1:8000", *common)
    proxy.wait_event("ready")
    client = made.run("host-b", "client", sys.executable, "-c", SCRIPT, "http://127.0.0.1:8000", str(tokens))
    client.wait_line("begun")
    time.sleep(1.5)
    return serve, proxy, client


def finish(client: Process, serve: Process, proxy: Process) -> None:
    """All that was under way is whole."""
    found = client.wait_line(r"whole (\d+) of (\d+) worst (\S+)", timeout=90)
    print(f"{found[1]} of {found[2]} whole, worst pause of a stream {float(found[3]):.2f} s")
    assert found[1] == found[2]
    assert serve.count("peer-lost") + proxy.count("peer-lost") == 0


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_cut_of_ten_seconds_is_a_pause_and_traffic_runs_again_at_once(side: str) -> None:
    with lab("cone", "cone") as made:
        serve, proxy, client = under_way(made, *STUN)
        made.start("link", "link", side, "--down").wait_exit()
        time.sleep(10)
        made.start("link", "link", side, "--up").wait_exit()
        back = time.time()
        resumed = proxy.wait_event("resumed")
        again = resumed["time"] - back
        print(f"cut of {side}: {again:.2f} s after its return, gap {resumed['gap_ms']:.0f} ms, {resumed['path']}")
        finish(client, serve, proxy)
        assert again < 1.5


def test_a_new_public_address_is_a_pause() -> None:
    with lab("cone", "cone") as made:
        serve, proxy, client = under_way(made, *STUN)
        made.start("renumber", "renumber", "b").wait_exit()
        resumed = proxy.wait_event("resumed", timeout=30)
        print(f"new address: gap {resumed['gap_ms']:.0f} ms, {resumed['path']}")
        finish(client, serve, proxy)
