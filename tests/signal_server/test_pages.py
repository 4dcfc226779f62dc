"""The page: which file answers which host, and with which rules for the browser."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from llmtunnel.cli.parsers import WEB
from signal_server.page_files import File, imported, read_folder, state_of, with_hints, without_documentation
from signal_server.pages import Answer, Ask, Host, Pages, exported

FILES = {
    "index.html": b'<!doctype html>\n<head>\n<script type="module" src="./shell/main.js"></script>\n</head>',
    "shell/main.js": b'import { a } from "../core/a.js";\nimport {\n  b,\n} from "./b.js";\nexport * from "./c.js";\n',
    "shell/b.js": b'import "./c.js";\n// import { no } from "./no.js";\n',
    "shell/c.js": b"export const c = await import('./no.js');\n",
    "shell/no.js": b"",
    "core/a.js": b'/** @import {B} from "../shell/no.js" */\n' + 100 * b"export const a = 1;\n",
    "core/types.d.ts": b"",
    "core/page.py": b"",
    "package.json": b"{}",
    ".secret.json": b"{}",
    "picture.png": b"\x89PNG",
    "app/keeper.html": b"<title>keeper</title>",
    "app/worker.js": b"// worker",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture
def pages(folder: Path) -> Pages:
    return Pages(files=read_folder(folder), version="1.2")


@pytest.fixture
def public(folder: Path) -> Pages:
    """As behind a server with TLS, with names of its own."""
    host, app = Host.given("tunnel.example.org"), Host.given("*.app.example.org", pattern=True)
    return Pages(files=read_folder(folder), host=host, app=app)


def get(pages: Pages, path: str, host: str = "localhost:8001", **more: str) -> Answer:
    return pages.answer(Ask(path=path, host=host, **more))


def policy(answer: Answer) -> dict[str, str]:
    """The directives of its Content-Security-Policy."""
    directives = answer.fields["Content-Security-Policy"].split("; ")
    return {name: rest for name, _, rest in (each.partition(" ") for each in directives)}


# -- the folder


def test_only_files_for_browsers_are_read(folder: Path) -> None:
    hidden = {"core/types.d.ts", "core/page.py", "package.json", ".secret.json"}
    assert {*read_folder(folder)} == {*FILES} - hidden


def test_a_folder_without_the_page_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no index\.html"):
        read_folder(tmp_path)


def test_a_change_is_noticed(folder: Path) -> None:
    before = state_of(folder)
    assert state_of(folder) == before
    (folder / "core/a.js").write_bytes(b"")
    assert state_of(folder) != before


def test_the_page_names_each_module_that_it_will_import_but_none_that_it_may(folder: Path) -> None:
    files = read_folder(folder)
    assert imported("shell/main.js", files) == ["core/a.js", "shell/b.js", "shell/c.js"]
    text = files["index.html"].data.decode()
    hints = [line for line in text.splitlines() if "modulepreload" in line]
    names = ["shell/main.js", "core/a.js", "shell/b.js", "shell/c.js"]
    assert hints == [f'<link rel="modulepreload" href="{name}">' for name in names]
    assert text.count("</head>") == 1


def test_a_page_without_modules_stays_as_it_is() -> None:
    assert with_hints("<head></head>", {}) == "<head></head>"


# -- files


def test_the_page_is_at_the_root_and_below_any_prefix(pages: Pages) -> None:
    index = get(pages, "/")
    assert (index.status, index.fields["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert get(pages, "/index.html").body == index.body
    assert get(pages, "/behind/another/server/").body == index.body
    assert get(pages, "/behind/another/server/core/a.js").body == get(pages, "/core/a.js").body
    assert get(pages, "/app/core/a.js").status == 200, "a prefix may have any name"


@pytest.mark.parametrize(
    "path",
    [
        *("/core", "/core/", "/core/types.d.ts", "/core/page.py", "/package.json", "/.secret.json", "/favicon.ico"),
        *("/../index.html/x", "/core/../../x.js", "/%2e%2e/core/page.py", "/core%2Fa.js", "//", "*", ""),
    ],
)
def test_nothing_else_is_answered(pages: Pages, path: str) -> None:
    answer = get(pages, path)
    if path.endswith("/"):  # as below any prefix
        assert answer.body == get(pages, "/").body
    else:
        assert (answer.status, answer.fields["Cache-Control"]) == (404, "no-store")


def test_a_path_of_many_parts_takes_no_time(pages: Pages) -> None:
    assert get(pages, f"{'/' * 1_000_000}x").status == 404
    assert get(pages, f"{'/x' * 100_000}/core/a.js").body == get(pages, "/core/a.js").body


def test_each_file_of_the_page_is_found() -> None:
    pages = Pages(files=read_folder(WEB))
    for name in pages.files:
        if not name.startswith("app/"):
            assert get(pages, f"/prefix/{name}").body == pages.files[name].data


def test_the_page_does_not_have_the_apps_files(pages: Pages) -> None:
    for path in ("/app/keeper.html", "/x/app/worker.js", "/~llmtunnel/keeper.html", "/keeper.html"):
        assert get(pages, path).status == 404


def test_text_is_compressed_for_browsers_that_can_read_it(pages: Pages) -> None:
    plain, packed = get(pages, "/core/a.js"), get(pages, "/core/a.js", encodings="br, GZIP ;q=0.5")
    assert "Content-Encoding" not in plain.fields
    assert packed.fields["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body == without_documentation(FILES["core/a.js"])
    assert len(packed.body) == int(packed.fields["Content-Length"]) < len(plain.body)
    assert "Content-Encoding" not in get(pages, "/core/a.js", encodings="gzip; q=0").fields
    assert "Content-Encoding" not in get(pages, "/picture.png", encodings="gzip").fields
    assert packed.fields["Vary"] == "Accept-Encoding"


def test_a_browser_that_has_a_file_does_not_get_it_again(pages: Pages, folder: Path) -> None:
    tag = get(pages, "/core/a.js").fields["ETag"]
    again = get(pages, "/core/a.js", known=f'"other", {tag}')
    assert (again.status, again.body) == (304, b"")
    assert "Content-Length" not in again.fields
    assert again.fields["ETag"] == tag
    assert again.fields["Cache-Control"] == "no-cache"
    (folder / "core/a.js").write_bytes(b"new")
    changed = Pages(files=read_folder(folder))
    assert get(changed, "/core/a.js", known=tag).status == 200


def test_head_has_the_fields_of_get(pages: Pages) -> None:
    head, whole = get(pages, "/core/a.js", method="HEAD"), get(pages, "/core/a.js")
    assert (head.status, head.fields, head.body) == (200, whole.fields, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_other_methods_are_refused(pages: Pages, method: str) -> None:
    answer = get(pages, "/", method=method)
    assert (answer.status, answer.fields["Allow"]) == (405, "GET, HEAD")
    assert get(pages, "/~llmtunnel/worker.js", "x.localhost:8001", method=method).status == 405


# -- what the page may do


def test_the_page_may_load_nothing_from_elsewhere_and_nobody_may_frame_it(pages: Pages) -> None:
    for path in ("/", "/core/a.js"):
        answer = get(pages, path)
        rules = policy(answer)
        assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == "'self'"
        assert rules["require-trusted-types-for"] == "'script'"
        assert rules["trusted-types"] == "dompurify"
        assert answer.fields["X-Content-Type-Options"] == "nosniff"
        assert answer.fields["Referrer-Policy"] == "no-referrer"
        assert answer.fields["Cross-Origin-Opener-Policy"] == "same-origin"


def test_a_page_on_this_machine_may_use_a_signal_server_without_tls(pages: Pages, public: Pages) -> None:
    assert policy(get(pages, "/"))["connect-src"] == "'self' wss: ws:"
    elsewhere = policy(get(public, "/", "tunnel.example.org"))["connect-src"]
    assert elsewhere == "'self' wss: ws://localhost:* ws://127.0.0.1:*"


@pytest.mark.parametrize("host", ["localhost:8001", "127.0.0.1:8001"])
def test_on_this_machine_the_app_has_names_below_localhost_at_the_same_port(pages: Pages, host: str) -> None:
    answer = get(pages, "/site.json", host)
    assert json.loads(answer.body) == {"signal": "same", "app": "http://*.localhost:8001", "version": "1.2"}
    assert policy(get(pages, "/", host))["frame-src"] == "*.localhost:8001"
    assert host in policy(get(pages, "/~llmtunnel/keeper.html", "x.localhost:8001"))["frame-ancestors"].split()


@pytest.mark.parametrize(
    "host",
    ["tunnel.example.org", "10.0.0.2:8001", "localhost.example.org", "[::1]:8001", "127.0.0.2", "", "::", "[", "a b"],
)
def test_elsewhere_there_is_no_app_without_a_name_for_it(pages: Pages, host: str) -> None:
    """Nor at an IPv6 address: no policy can permit it to show a frame of the app."""
    assert json.loads(get(pages, "/site.json", host).body)["app"] is None
    assert policy(get(pages, "/", host))["frame-src"] == "'none'"


def test_the_names_that_the_operator_has_given_are_the_pages_and_the_apps(public: Pages) -> None:
    assert json.loads(get(public, "/site.json", "tunnel.example.org").body)["app"] == "https://*.app.example.org"
    assert policy(get(public, "/", "tunnel.example.org"))["frame-src"] == "*.app.example.org"
    reported = get(public, "/site.json", "tunnel.example.org", scheme="http")
    assert json.loads(reported.body)["app"] == "http://*.app.example.org"


def test_a_page_with_a_name_is_only_there(public: Pages) -> None:
    answer = get(public, "/prefix/", "signal.example.org")
    assert (answer.status, answer.fields["Location"]) == (302, "https://tunnel.example.org/prefix/")
    assert get(public, "/", "10.0.0.2:8787").fields["Location"] == "https://tunnel.example.org/"
    assert get(public, "//evil.example/", "x").fields["Location"] == "https://tunnel.example.org/evil.example/"
    assert get(public, "/core/a.js", "signal.example.org").status == 404
    for same in ("TUNNEL.example.org", "tunnel.example.org.", "tunnel.example.org:443", "tunnel.example.org:8443"):
        assert get(public, "/", same).status == 200, "a server in front may change the port, and no loop must follow"


# -- the app's hosts


@pytest.mark.parametrize(
    "host", ["x.app.example.org", "X.APP.example.org.", "x.app.example.org:8443", "a.b.app.example.org"]
)
def test_an_apps_host_has_the_apps_files_and_nothing_else(public: Pages, host: str) -> None:
    assert get(public, "/~llmtunnel/keeper.html", host).body == FILES["app/keeper.html"]
    for path in (
        "/",
        "/index.html",
        "/core/a.js",
        "/site.json",
        "/keeper.html",
        "/~llmtunnel/",
        "/~llmtunnel/../index.html",
    ):
        answer = get(public, path, host)
        assert (answer.status, answer.fields["Cache-Control"]) == (404, "no-store")
        assert b"past the tunnel" in answer.body
    assert get(public, "/api/generate", host, method="POST").status == 404


def test_the_worker_may_control_the_whole_origin(pages: Pages) -> None:
    worker = get(pages, "/~llmtunnel/worker.js", "x.localhost:8001")
    assert worker.fields["Service-Worker-Allowed"] == "/"
    assert worker.fields["Content-Type"].startswith("text/javascript")
    assert "Service-Worker-Allowed" not in get(pages, "/~llmtunnel/keeper.html", "x.localhost:8001").fields


def test_only_the_page_may_frame_the_keeper(pages: Pages, public: Pages) -> None:
    here = policy(get(pages, "/~llmtunnel/keeper.html", "x.localhost:8001"))
    assert here["frame-ancestors"] == "localhost:8001 127.0.0.1:8001"
    assert here["default-src"] == here["base-uri"] == here["form-action"] == "'none'"
    assert (
        policy(get(public, "/~llmtunnel/keeper.html", "x.app.example.org"))["frame-ancestors"] == "tunnel.example.org"
    )


def test_only_the_page_itself_may_clear_the_apps_storage(pages: Pages) -> None:
    cleared = get(pages, "/~llmtunnel/clear", "x.localhost", site="same-origin")
    assert (cleared.status, cleared.fields["Clear-Site-Data"]) == (204, '"cache", "cookies", "storage"')
    for site in ("cross-site", "same-site"):
        refused = get(pages, "/~llmtunnel/clear", "x.localhost", site=site)
        assert refused.status == 403
        assert "Clear-Site-Data" not in refused.fields


def test_the_app_and_the_page_never_share_a_host(folder: Path) -> None:
    files = read_folder(folder)
    for page, app in (("a.example", "a.example"), ("x.a.example", "*.a.example"), ("a.example:1", "a.example:2")):
        with pytest.raises(ValueError, match="another name"):
            Pages(files=files, host=Host.given(page), app=Host.given(app, pattern=True))
    with pytest.raises(ValueError, match="the page's host"):
        Pages(files=files, app=Host.given("app.example.org"))
    Pages(files=files, host=Host.given("a.example"), app=Host.given("*.a.example", pattern=True))


@pytest.mark.parametrize(
    "text", ["", "https://a", "a/b", "a b", "*.a", "a.*", "a:0", "a:65536", "a:b", "-a", "a..b", "é"]
)
def test_a_host_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        Host.given(text)


# -- the export


def test_the_exported_chat_has_its_rules_in_the_page(folder: Path) -> None:
    found = exported(read_folder(folder), version="1.2")
    assert not any(name.startswith("app/") for name in found)
    text = found["index.html"].decode()
    rules = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0]
    assert "default-src 'none'; script-src 'self'" in rules
    assert "frame-ancestors" not in rules, "browsers ignore it there, and complain"
    assert text.index("Content-Security-Policy") < text.index("<link")
    assert json.loads(found["site.json"]) == {"signal": None, "app": None, "version": "1.2"}


def test_a_file_that_no_longer_compresses_is_sent_as_it_is() -> None:
    assert File.of(".js", b"x").packed is None


def test_a_module_is_sent_without_its_documentation_and_each_statement_keeps_its_line() -> None:
    code = b"/** A module. */\nimport 1;\n\n  /**\n   * Text with **stars**.\n   */\nf(); /** inline */\n/* kept */\n"
    assert without_documentation(code) == b"\nimport 1;\n\n\n\n\nf(); /** inline */\n/* kept */\n"
