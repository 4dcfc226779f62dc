"""What users keep to themselves stays out of all that the processes write, under the fullest logging too."""

from __future__ import annotations

from pathlib import Path

from ..support.exchanges import request
from ..support.processes import Process, Processes
from ..support.raw_client import fetch
from ..support.raw_server import reply
from ..support.upstream import Upstream

KEY, HEADER, BEARER, COOKIE, QUERY, BODY, ANSWER = (
    f"secret-of-the-{name}" for name in ("key", "header", "bearer", "cookie", "query", "body", "answer")
)
ROOM = "secret-room-of-two"
SECRET = "what-only-two-know"
TOKEN, WRONG_TOKEN = "access-for-us-alone", "access-for-nobody"
RIGHT = "zebra-yacht-xylophone-wolverine-vaseline"
WRONG = "zebra-yacht-xylophone-wolverine-quesadilla"


def written(*processes: Process) -> str:
    """All that they have said."""
    return "\n".join(line for process in processes for line in (*process.lines, *process.errors))


def test_no_code_word_or_secret_is_written_by_any_process_under_full_logging(
    processes: Processes, own_upstream: Upstream, tmp_path: Path
) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET)
    signal = processes.signal("--log-level", "debug")
    code = f"4821309-{RIGHT}@{signal.url}"
    here = ("-vvv", "--listen", "127.0.0.1:0")
    kept = ("--room", ROOM, "--signal", signal.url)
    serves = [
        processes.command("serve", "--upstream", own_upstream.url, "-vvv", "--web", TUNNEL_INVITE=code),
        processes.command("serve", "--upstream", own_upstream.url, "-vvv", *kept, TUNNEL_SECRET=SECRET),
    ]
    proxies = [
        processes.command("proxy", code, *here),
        processes.command("proxy", *kept, *here, "--secret-file", str(secret_file)),
    ]
    for each in proxies:
        each.wait_event("ready")
    stranger = processes.command("proxy", code.replace(RIGHT, WRONG), *here)
    mistyped = processes.command("proxy", code.replace("zebra", "qqqq"), *here)
    assert (stranger.wait_exit(), mistyped.wait_exit()) == (3, 2)
    mistyped.wait_line(r"'qqqq' \(word 1\) is not a code word")  # which the error says, and none of those that are
    for each in (*serves, *proxies, signal.process):
        each.stop()
    everything = written(signal.process, *serves, *proxies, stranger, mistyped)
    assert "aioice" in everything, "the logging is not the fullest"
    told = everything.lower()
    assert not [word for word in {SECRET, *RIGHT.split("-"), *WRONG.split("-")} if word in told]


def test_an_access_token_is_written_by_no_process_and_is_in_no_invite(
    processes: Processes, own_upstream: Upstream, tmp_path: Path
) -> None:
    tokens, mine = tmp_path / "tokens", tmp_path / "mine"
    tokens.write_text(f"{TOKEN} # ours\n")
    mine.write_text(TOKEN)
    signal = processes.signal("--log-level", "debug", "--access-token-file", str(tokens))
    serve = processes.command(
        "serve", "--upstream", own_upstream.url, "--signal", signal.url, "-vvv", TUNNEL_SIGNAL_TOKEN=TOKEN
    )
    code = serve.wait_event("invite")["code"]
    here = ("-vvv", "--listen", "127.0.0.1:0")
    called = ("--allow-host", "client.example")
    proxy = processes.command("proxy", code, *here, *called, "--signal-token-file", str(mine))
    proxy.wait_event("ready")
    wrong = processes.command("proxy", code, *here, "--signal-token", WRONG_TOKEN)
    none = processes.command("serve", "--upstream", own_upstream.url, "--signal", signal.url)
    # A token for another signal server is not sent to the one that an invite names.
    elsewhere = processes.command("proxy", code, *here, TUNNEL_SIGNAL="wss://ours.example", TUNNEL_SIGNAL_TOKEN=TOKEN)
    doctor = processes.command("doctor", "--signal", signal.url, TUNNEL_SIGNAL_TOKEN=TOKEN)
    bench = processes.command("bench", code, "--duration", "2", "--signal-token", TOKEN)
    assert (wrong.wait_exit(), none.wait_exit(), elsewhere.wait_exit()) == (3, 3, 3)
    wrong.wait_line("does not accept the access token")
    none.wait_line("is private: it requires an access token")
    elsewhere.wait_line("is private: it requires an access token")
    none.wait_line("--signal-token-file FILE")
    assert bench.wait_exit() == 0
    doctor.wait_line(r'"signal": true')
    doctor.wait_exit()
    tokens.write_text("another-token-from-now-on\n")
    signal.process.wait_line("Access tokens: 1 are valid")
    late = processes.command("proxy", code, *here, "--signal-token", TOKEN)
    assert late.wait_exit() == 3
    assert fetch(_address(proxy), request(b"GET", b"/")).status == 200, "the tunnel goes on"
    for process in (serve, proxy, signal.process):
        process.stop()
    everything = written(signal.process, serve, proxy, wrong, none, elsewhere, doctor, bench, late)
    assert "aioice" in everything, "the logging is not the fullest"
    assert TOKEN not in everything and WRONG_TOKEN not in everything


def _address(proxy: Process) -> tuple[str, int]:
    host, _, port = str(proxy.wait_event("listening")["url"]).removeprefix("http://").rpartition(":")
    return host, int(port)


def test_a_new_code_is_written_once_where_it_is_to_be_seen(processes: Processes, own_upstream: Upstream) -> None:
    signal = processes.signal("--log-level", "debug")
    serve = processes.command("serve", "--upstream", own_upstream.url, "--signal", signal.url, "-vvv", "--web")
    code = serve.wait_event("invite")["code"]
    words = code.partition("-")[2].partition("@")[0]
    proxy = processes.command("proxy", code, "-vvv", "--listen", "127.0.0.1:0")
    proxy.wait_event("ready")
    for process in (serve, proxy, signal.process):
        process.stop()
    assert [words in line for line in serve.lines].count(True) == 1
    assert words not in "\n".join([*serve.errors, written(proxy, signal.process)])


def test_no_secret_is_written_by_any_process_under_full_logging(
    processes: Processes, own_upstream: Upstream, tmp_path: Path
) -> None:
    key_file, field_file = tmp_path / "key", tmp_path / "fields"
    key_file.write_text(KEY)
    field_file.write_text(f"X-Token: {HEADER}\n")
    target = f"/chat?api_key={QUERY}".encode()
    own_upstream.answers[target] = reply(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: s=%b\r\nContent-Length: 2\r\n\r\nok" % ANSWER.encode()
    )
    signal = processes.signal("--log-level", "debug")
    serve = processes.serve(ROOM, own_upstream.url, signal.url, "-vvv", "--upstream-header", f"@{field_file}")
    proxy = processes.proxy(ROOM, signal.url, "-vvv", "--api-key-file", str(key_file))
    fields = (
        f"X-Api-Key: {KEY}",
        f"Authorization: Bearer {BEARER}",
        f"Cookie: c={COOKIE}",
        f"Content-Length: {len(BODY)}",
    )
    asked = request(b"POST", target, *(field.encode() for field in fields)) + BODY.encode()
    answer = fetch(proxy.address, asked)
    assert (answer.status, answer.values(b"set-cookie")) == (200, [f"s={ANSWER}".encode()])
    arrived = own_upstream.requests[-1]
    passed_on = b"\n".join((arrived.target, *(value for _, value in arrived.fields), arrived.body)).decode()
    assert all(secret in passed_on for secret in (HEADER, BEARER, COOKIE, QUERY, BODY))
    assert KEY not in passed_on, "the listener's key is for the listener"
    proxy.process.wait_event("request", path="/chat")
    for process in (serve, proxy.process, signal.process):
        process.stop()
    everything = written(serve, proxy.process, signal.process)
    assert "aioice" in everything, "the logging is not the fullest"
    assert not [each for each in (KEY, HEADER, BEARER, COOKIE, QUERY, BODY, ANSWER) if each in everything]
    assert ROOM not in written(signal.process), "its name is all that guards a room"
