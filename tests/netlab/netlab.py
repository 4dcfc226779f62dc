#!/usr/bin/env python3
"""A small internet on one machine, made of network namespaces.

    host-a -- nat-a ==wan==  inet  ==wan== nat-b -- host-b
    10.10.0.2               198.51.100.1             10.20.0.2

`inet` is the public side: run the signal server, STUN and TURN there, on
198.51.100.1. Each host reaches it through its own NAT router, over a WAN link
that can delay, lose, reorder and rate-limit packets, and that can be changed
or cut while programs run.

    netlab.py up --nat-a cone --nat-b symmetric --delay 25 --loss 0.5 &
    netlab.py exec inet   -- CMD...       run a command inside a namespace
    netlab.py exec host-a -- CMD...
    netlab.py link a --delay 80 --loss 2  change a WAN link that is up
    netlab.py link a --down / --up        cut it, mend it
    netlab.py renumber a                  host-a's router gets a new public address,
                                          and forgets its mappings (needs conntrack)
    netlab.py down

`up` stays in the foreground: it carries the packets. Delay is one way, in
milliseconds, on each of the two links (a round trip between the hosts is four
times it). A second `up` waits until the first one is down. Needs root, /dev/net/tun, iproute2 and iptables.

NAT kinds: none (routed), cone (endpoint-independent mapping, port-restricted
filtering), symmetric (a new public port for each destination), blocked-udp
(a cone NAT that drops all UDP, as many corporate and notebook networks do).
"""

import argparse
import ctypes
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

PREFIX = "ltlab-"
CONTROL = os.path.join(tempfile.gettempdir(), "netlab.sock")
SIDES = {
    "a": {"lan": "10.10.0", "public": ["198.51.100.10", "198.51.100.11"]},
    "b": {"lan": "10.20.0", "public": ["198.51.100.20", "198.51.100.21"]},
}
INET = "198.51.100.1"
NATS = ("none", "cone", "symmetric", "blocked-udp")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def sh(*args, ns=None, check=True):
    if ns:
        args = ("ip", "netns", "exec", PREFIX + ns, *args)
    return subprocess.run(args, check=check, capture_output=True, text=True)


def enter(path):
    with open(path) as f:
        if libc.setns(f.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns " + path)


def open_tun(ns, name):
    """A TUN device's descriptor, the device living in namespace `ns`."""
    home = f"/proc/{os.getpid()}/task/{os.getpid()}/ns/net"
    with open(home) as keep:
        enter(f"/run/netns/{PREFIX}{ns}")
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
        finally:
            libc.setns(keep.fileno(), CLONE_NEWNET)
    return fd


class Link:
    """One WAN link: what is read at either end is written at the other, late or not at all."""

    def __init__(self, end0, end1, **knobs):
        self.peer = {end0: end1, end1: end0}
        self.up, self.delay, self.jitter, self.loss, self.rate, self.queue = True, 0.0, 0.0, 0.0, 0.0, 256
        self.free_at = {end0: 0.0, end1: 0.0}
        self.sent = self.dropped = 0
        self.set(**knobs)

    def set(self, **knobs):
        for key, value in knobs.items():
            if value is not None:
                setattr(self, key, value)

    def due(self, end, size, now):
        """When a packet read at `end` comes out of the other end; None where it is lost."""
        if not self.up or (self.loss and random.random() * 100 < self.loss):
            self.dropped += 1
            return None
        start = now
        if self.rate:
            start = max(now, self.free_at[end])
            if (start - now) * self.rate * 125_000 > self.queue * 1024:
                self.dropped += 1
                return None
            start += size / (self.rate * 125_000)
            self.free_at[end] = start
        self.sent += 1
        return start + (self.delay + random.random() * self.jitter) / 1000


def nat_rules(side, kind, public):
    ns = f"nat-{side}"
    sh("iptables", "-t", "nat", "-F", ns=ns)
    sh("iptables", "-F", "FORWARD", ns=ns)
    sh("iptables", "-F", "INPUT", ns=ns)
    if kind == "none":
        return
    target = ["-j", "SNAT", "--to-source", public]
    if kind == "symmetric":
        target.append("--random-fully")
    sh("iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "wan", *target, ns=ns)
    # Unsolicited traffic from outside is dropped, as a home router does: also what is addressed to the router, or
    # conntrack would keep it, and give the host behind another port when it sends the same way back.
    for chain in ("FORWARD", "INPUT"):
        sh("iptables", "-A", chain, "-i", "wan", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP", ns=ns)
    if kind == "blocked-udp":
        sh("iptables", "-A", "FORWARD", "-p", "udp", "-j", "DROP", ns=ns)


def address(side, public):
    """Give nat-SIDE the public address, on its wan end and in inet's routes."""
    ns = f"nat-{side}"
    sh("ip", "addr", "flush", "dev", "wan", ns=ns)
    sh("ip", "addr", "add", f"{public}/32", "dev", "wan", ns=ns)
    sh("ip", "link", "set", "wan", "up", ns=ns)
    sh("ip", "route", "replace", "default", "dev", "wan", "src", public, ns=ns)
    for other in SIDES[side]["public"]:
        sh("ip", "route", "del", f"{other}/32", "dev", f"wan-{side}", ns="inet", check=False)
    sh("ip", "route", "replace", f"{public}/32", "dev", f"wan-{side}", ns="inet")
    sh("ip", "route", "replace", f"{SIDES[side]['lan']}.0/24", "dev", f"wan-{side}", ns="inet")


def build(kinds):
    for ns in ("inet", "nat-a", "nat-b", "host-a", "host-b"):
        sh("ip", "netns", "add", PREFIX + ns)
        sh("ip", "link", "set", "lo", "up", ns=ns)
        sh("sysctl", "-qw", "net.ipv4.ip_forward=1", ns=ns, check=False)
        # A browser drops its requests when an interface's address changes, which is when IPv6 has probed it: 2 s later.
        sh("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", ns=ns, check=False)
    sh("ip", "addr", "add", f"{INET}/32", "dev", "lo", ns="inet")
    ends = {}
    for side, facts in SIDES.items():
        nat, host, lan = f"nat-{side}", f"host-{side}", facts["lan"]
        sh(
            "ip",
            "link",
            "add",
            "lan",
            "netns",
            PREFIX + nat,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            PREFIX + host,
        )
        sh("ip", "addr", "add", f"{lan}.1/24", "dev", "lan", ns=nat)
        sh("ip", "link", "set", "lan", "up", ns=nat)
        sh("ip", "addr", "add", f"{lan}.2/24", "dev", "eth0", ns=host)
        sh("ip", "link", "set", "eth0", "up", ns=host)
        sh("ip", "route", "add", "default", "via", f"{lan}.1", ns=host)
        ends[side] = (open_tun(nat, "wan"), open_tun("inet", f"wan-{side}"))
        sh("ip", "link", "set", f"wan-{side}", "up", ns="inet")
        for ns, dev in ((nat, "wan"), ("inet", f"wan-{side}")):
            sh("ip", "link", "set", dev, "txqueuelen", "2000", ns=ns)
        address(side, facts["public"][0])
        nat_rules(side, kinds[side], facts["public"][0])
    return ends


def destroy():
    for ns in ("host-a", "host-b", "nat-a", "nat-b", "inet"):
        sh("ip", "netns", "del", PREFIX + ns, check=False)
    if os.path.exists(CONTROL):
        os.unlink(CONTROL)


def carry(links, kinds):
    """Move packets, and obey the control socket, until a signal ends it."""
    selector = selectors.DefaultSelector()
    for link in links.values():
        for fd in link.peer:
            selector.register(fd, selectors.EVENT_READ, link)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.bind(CONTROL)
    control.listen(8)
    selector.register(control, selectors.EVENT_READ, None)
    late, tie = [], itertools.count()
    while True:
        wait = max(0.0, late[0][0] - time.monotonic()) if late else None
        for key, _ in selector.select(wait):
            if key.data is None:
                command(control, links, kinds)
                continue
            for _ in range(64):
                try:
                    packet = os.read(key.fd, 65536)
                except BlockingIOError:
                    break
                due = key.data.due(key.fd, len(packet), time.monotonic())
                if due is not None:
                    heapq.heappush(late, (due, next(tie), key.data.peer[key.fd], packet))
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, _, fd, packet = heapq.heappop(late)
            try:
                os.write(fd, packet)
            except (BlockingIOError, OSError):
                pass


def command(control, links, kinds):
    conn, _ = control.accept()
    with conn:
        ask = json.loads(conn.recv(65536))
        if ask.get("quit"):
            raise KeyboardInterrupt
        link, side = links[ask["side"]], ask["side"]
        if ask.get("renumber"):
            pool = SIDES[side]["public"]
            pool.append(pool.pop(0))
            address(side, pool[0])
            nat_rules(side, kinds[side], pool[0])
            if shutil.which("conntrack"):
                sh("conntrack", "-F", ns=f"nat-{side}", check=False)
        link.set(**ask.get("set", {}))
        state = {k: getattr(link, k) for k in ("up", "delay", "jitter", "loss", "rate", "sent", "dropped")}
        conn.sendall(json.dumps({"side": side, "public": SIDES[side]["public"][0], **state}).encode())


def ask(**request):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as conn:
        conn.connect(CONTROL)
        conn.sendall(json.dumps(request).encode())
        answer = conn.recv(65536).decode()
        if answer:
            print(answer)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    knobs = argparse.ArgumentParser(add_help=False)
    knobs.add_argument("--delay", type=float, help="one-way delay of the link, ms")
    knobs.add_argument("--jitter", type=float, help="added at random, ms (reorders)")
    knobs.add_argument("--loss", type=float, help="per cent of packets lost, each way")
    knobs.add_argument("--rate", type=float, help="Mbit/s, each way")
    knobs.add_argument("--queue", type=int, help="KiB queued ahead of the rate limit before packets drop (default 256)")
    up = verbs.add_parser("up", parents=[knobs])
    up.add_argument("--nat-a", choices=NATS, default="cone")
    up.add_argument("--nat-b", choices=NATS, default="cone")
    run = verbs.add_parser("exec")
    run.add_argument("where", choices=["inet", "host-a", "host-b", "nat-a", "nat-b"])
    run.add_argument("command", nargs=argparse.REMAINDER)
    link = verbs.add_parser("link", parents=[knobs])
    link.add_argument("side", choices=SIDES)
    link.add_argument("--down", dest="up", action="store_false", default=None)
    link.add_argument("--up", dest="up", action="store_true", default=None)
    verbs.add_parser("renumber").add_argument("side", choices=SIDES)
    verbs.add_parser("down")
    args = parser.parse_args()
    values = {k: getattr(args, k, None) for k in ("delay", "jitter", "loss", "rate", "queue", "up")}
    values = {k: v for k, v in values.items() if v is not None}
    if args.verb == "exec":
        words = args.command[1:] if args.command[:1] == ["--"] else args.command
        os.execvp("ip", ["ip", "netns", "exec", PREFIX + args.where, *words])
    elif args.verb == "down":
        try:
            ask(quit=True)
        except OSError:
            destroy()
    elif args.verb == "link":
        ask(side=args.side, set=values)
    elif args.verb == "renumber":
        ask(side=args.side, renumber=True)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        lock = open(CONTROL + ".lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        destroy()
        kinds = {"a": args.nat_a, "b": args.nat_b}
        try:
            ends = build(kinds)
            links = {side: Link(*pair, **values) for side, pair in ends.items()}
            print("netlab: up", flush=True)
            carry(links, kinds)
        except KeyboardInterrupt:
            pass
        finally:
            destroy()


if __name__ == "__main__":
    main()
