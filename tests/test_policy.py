from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import SettingError
from llmtunnel.policy import READY, NotNormal, Policy, Rule, normal

NORMAL = [
    b"/",
    b"/v1/models",
    b"/v1/models/",
    b"/v1/models/llama3:8b",
    b"/v1/models/meta-llama/Llama-3.1@main",
    b"/a!$&'()*+,=~_-.b",
    b"/...",
    b"/.hidden",
    b"/a%20b",
    b"/%5B%5D%7B%7D%7C%22%3C%3E%5E%60",
    b"/caf%C3%A9/%E4%BD%A0%E5%A5%BD",
]

MODELS = {
    b"/v1/models/org%2Fmodel": "/v1/models/org/model",
    b"/models/org%2Fmodel": "/models/org/model",
    b"/v1/models/org%2Fmodel:latest@main": "/v1/models/org/model:latest@main",
    b"/v1/models/hf.co%2Forg%2Fmodel%3AQ4_K_M": "/v1/models/hf.co/org/model:Q4_K_M",
    b"/v1/models/org%2Fmodel%40main": "/v1/models/org/model@main",
    b"/v1/models/llama3%3A8b": "/v1/models/llama3:8b",
    b"/v1/models/a%2F...": "/v1/models/a/...",
    b"/v1/models/a%2Fb%20c": "/v1/models/a/b c",
    b"/v1/models/a%2F%E4%BD%A0": "/v1/models/a/\u4f60",
}
"""Models as OpenAI's SDKs and JavaScript's ``encodeURIComponent`` ask for them, and what patterns see."""

TRICKS = [
    # empty segments, dot segments, each way of writing them
    b"//",
    b"//v1/models",
    b"/v1//models",
    b"/v1/models//",
    b"/./v1",
    b"/v1/.",
    b"/v1/..",
    b"/v1/../api/pull",
    b"/..",
    b"/v1/%2e%2e/api/pull",
    b"/v1/%2E%2E/api/pull",
    b"/v1/.%2e/api",
    b"/v1/%2e./api",
    b"/%2e",
    b"/v1/..;/api/pull",
    b"/v1/..\\api",
    # encoded slashes and backslashes
    b"/v1%2Fmodels",
    b"/v1%2fmodels",
    b"/v1/chat%2Fcompletions",
    b"/api/show/a%2Fb",
    b"/v1/models%2Fa",
    b"/v1%2Fmodels/a%2Fb",
    b"/V1/models/a%2Fb",
    b"/v2/models/a%2Fb",
    b"/x/v1/models/a%2Fb",
    b"/v1/models/a%2Fb/c",
    b"/v1/models/a/b%2Fc",
    b"/v1/models/a%2fb",
    b"/v1/models/a%252Fb",
    b"/v1/models/a%252fb",
    b"/v1/models/a%25252Fb",
    b"/v1/models/..%2F..%2Fapi%2Fpull",
    b"/v1/models/..%2Fx",
    b"/v1/models/x%2F..",
    b"/v1/models/x%2F.%2Fy",
    b"/v1/models/x%2F..%2Fy",
    b"/v1/models/%2E%2E%2Fx",
    b"/v1/models/%2e%2e%2fx",
    b"/v1/models/%2Fx",
    b"/v1/models/%2F",
    b"/v1/models/x%2F%2Fy",
    b"/v1/models/x%2F/y",
    b"/v1/models/x%2F%5C..",
    b"/v1/models/x%5Cy",
    b"/v1/models/x%3Bv=1",
    b"/v1/models/x;v=1",
    b"/v1/models/x%3Fa",
    b"/v1/models/x%23a",
    b"/v1/models/x%00",
    b"/v1/models/x%2F%EF%BC%8E%EF%BC%8E",
    b"/models/..%2Fapi",
    b"/models/a%2fb",
    b"/v1/..%2Fapi%2Fpull",
    b"/v1/..%2fapi",
    b"/v1%5Cmodels",
    b"/v1%5cmodels",
    b"/v1\\models",
    b"\\v1\\models",
    b"/\\evil",
    # encoded bytes that need none
    b"/%61pi/pull",
    b"/api/pul%6C",
    b"/api/pul%6c",
    b"/v1/%41",
    b"/%7Euser",
    b"/a%2Db",
    b"/a%3Ab",
    b"/a%40b",
    b"/a%2Bb",
    # what ends a path, or a part of one, for those who decode first
    b"/api/pull%3F",
    b"/api/pull%23",
    b"/api/pull%3Bx",
    b"/api/pull;x",
    b"/api/pull;",
    b"/;/api/pull",
    b"/api;a=b/pull",
    b"/api/pull#x",
    b"/#/../api",
    # twice encoded
    b"/%252e%252e/api",
    b"/v1%252Fmodels",
    b"/a%25",
    # malformed escapes, and the other case of the digits
    b"/%",
    b"/a%4",
    b"/a%zz",
    b"/a%%20",
    b"/a%u002f",
    b"/a%5b",
    b"/caf%c3%a9",
    # control bytes, raw and encoded
    b"/a\0",
    b"/a%00",
    b"/api/pull%00.json",
    b"/a%0a",
    b"/a%0D%0AHost:%20evil",
    b"/a\r\nHost: evil",
    b"/a\n",
    b"/a\tb",
    b"/a b",
    b"/a\x7f",
    b"/a%7F",
    b"/a%1F",
    # beyond ASCII: raw, overlong, surrogates, other forms of ASCII, invisible
    b"/caf\xc3\xa9",
    b"/\xff",
    b"/%FF",
    b"/%C3",
    b"/%C0%AF",
    b"/%C0%AE%C0%AE/api",
    b"/%E0%80%AF",
    b"/%ED%A0%80",
    b"/%EF%BC%8Fapi",
    b"/%EF%BC%8E%EF%BC%8E/api",
    b"/api/pu%EF%BD%8Cl",
    b"/api/%E2%84%AA",
    b"/e%CC%81",
    b"/api/pu%E2%80%8Bll",
    b"/api%E2%80%A8",
    b"/%C2%85",
    # characters that must be escaped
    b'/a"b',
    b"/a<b>",
    b"/a[0]",
    b"/a{b}",
    b"/a|b",
    b"/a^b",
    b"/a`b",
    # not a path
    b"",
    b"*",
    b"v1/models",
    b"@evil/v1/models",
    b"http://evil/v1/models",
    b"HTTP://127.0.0.1/v1/models",
    b"evil:80",
    b"?x",
]


@pytest.mark.parametrize("path", NORMAL)
def test_a_path_in_normal_form_is_that_of_its_decoded_text(path: bytes) -> None:
    assert quote(normal(path), safe="/!$&'()*+,=~:@").encode() == path


@pytest.mark.parametrize("path", MODELS)
def test_a_models_name_may_be_one_segment_and_patterns_see_it_decoded(path: bytes) -> None:
    text = MODELS[path]
    assert normal(path) == text
    assert Policy.parse(ready="openai").refusal("GET", path) is None
    assert Policy.parse(ready="openai").refusal("DELETE", path) is not None
    for denied in (text, text.upper(), path.decode(), "/*models/*", text[:-1] + "*"):
        try:
            policy = Policy.parse(ready="openai", deny=[denied])
        except SettingError:
            assert not denied.isascii() or " " in denied  # it has to be escaped in a pattern
        else:
            assert "--deny" in str(policy.refusal("GET", path))


def test_what_is_denied_below_a_model_is_denied_in_both_spellings() -> None:
    policy = Policy.parse(allow=["/v1/models/*"], deny=["/v1/models/secret/*", "/v1/models/*/load"])
    for path in (b"secret%2Fx", b"SECRET%2Fx", b"secret/x", b"a%2Fload", b"a/load", b"a%2Fb%2Fload"):
        assert policy.refusal("GET", b"/v1/models/" + path) is not None
    assert policy.refusal("GET", b"/v1/models/public%2Fx") is None


@pytest.mark.parametrize("path", TRICKS)
def test_a_path_that_has_another_spelling_is_refused_under_any_policy(path: bytes) -> None:
    with pytest.raises(NotNormal) as caught:
        normal(path)
    assert str(caught.value).isprintable()
    for policy in (Policy.parse(allow=["/*"]), Policy.parse(deny=["/nothing"]), Policy.parse(ready="openai")):
        refusal = policy.refusal("GET", path)
        assert refusal is not None and "not in normal form" in refusal
    assert Policy().refusal("GET", path) is None


_ODD = st.text("/.%25;2fFeE\\aA", max_size=20).map(str.encode)


@given(
    st.binary(max_size=30).map(b"/".__add__)
    | _ODD.map(b"/".__add__)
    | _ODD.map(b"/v1/models/".__add__)
    | st.lists(st.sampled_from([b"a", b"%2F", b"%3A", b".", b"/", b"%2f", b"%25", b"%20"])).map(
        lambda pieces: b"/models/" + b"".join(pieces)
    )
)
def test_no_two_paths_in_normal_form_have_one_decoded_text(path: bytes) -> None:
    try:
        text = normal(path)
    except NotNormal:
        return
    spelled = quote(text, safe="/!$&'()*+,=~:@").encode()
    if path != spelled:  # but for a model's name
        assert re.fullmatch(rb"(/v1)?/models/[^/]+", path)
        assert path.replace(b"%2F", b"/").replace(b"%3A", b":").replace(b"%40", b"@") == spelled
        assert normal(spelled) == text


@given(st.text(max_size=20))
def test_a_text_is_a_path_where_its_only_spelling_is_in_normal_form(text: str) -> None:
    spelled = quote("/" + text, safe="/!$&'()*+,=~:@", errors="surrogatepass").encode()
    try:
        assert normal(spelled) == "/" + text
    except NotNormal as exc:
        assert str(exc)


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/v1/*", "/v1/models", True),
        ("/v1/*", "/v1/a/b/c", True),
        ("/v1/*", "/v1/", True),
        ("/v1/*", "/v1", False),
        ("/v1/*", "/v1beta/x", False),
        ("/v1*", "/v1beta/x", True),
        ("/*", "/", True),
        ("/", "/a", False),
        ("/v1/models", "/v1/models", True),
        ("/v1/models", "/v1/models/", False),
        ("/v1/models", "/V1/models", False),
        ("/*/models", "/v1/models", True),
        ("/*/models", "/a/b/models", True),
        ("/*/models", "/models", False),
        ("/a*a", "/a", False),
        ("/a*a", "/aa", True),
        ("/*a*b*", "/xaxbx", True),
        ("/*a*b*", "/xbxax", False),
        ("/*ab*b", "/ab", False),
        ("/**", "/x", True),
        ("/a+.c", "/aa.c", False),
    ],
)
def test_an_asterisk_stands_for_any_characters_and_all_else_for_itself(pattern: str, path: str, matches: bool) -> None:
    assert Rule.parse(pattern).allows("GET", path) is matches


@given(st.text("a*/", max_size=8), st.text("a/", max_size=10))
def test_an_asterisk_matches_as_in_a_regular_expression(pattern: str, path: str) -> None:
    expected = re.fullmatch(re.escape("/" + pattern).replace(r"\*", ".*"), "/" + path)
    assert Rule(path="/" + pattern).allows("GET", "/" + path) is bool(expected)


@pytest.mark.parametrize(
    ("pattern", "method", "allowed", "denied"),
    [
        ("/x", "PROPFIND", True, True),
        ("POST /x", "POST", True, True),
        ("post /x", "POST", True, True),
        ("POST /x", "GET", False, False),
        ("POST /x", "post", False, True),  # some programs take it for the same
        ("GET /x", "HEAD", True, True),
        ("HEAD /x", "GET", False, False),
    ],
)
def test_a_method_is_held_exactly_where_it_allows_and_in_any_case_where_it_denies(
    pattern: str, method: str, allowed: bool, denied: bool
) -> None:
    rule = Rule.parse(pattern)
    assert rule.allows(method, "/x") is allowed
    assert rule.denies(method, "/x") is denied


@pytest.mark.parametrize("path", ["/api/pull", "/API/Pull", "/api/pull/", "/Api/pull/"])
def test_a_deny_pattern_refuses_what_a_lax_program_takes_for_the_same(path: str) -> None:
    assert Policy.parse(deny=["/api/pull"]).refusal("POST", path.encode()) is not None
    assert Policy.parse(deny=["/api/pull/"]).refusal("POST", path.encode()) is not None
    assert Policy.parse(deny=["/api/pull"]).refusal("POST", b"/api/pulls") is None


def test_deny_wins_and_with_any_allow_all_else_is_refused() -> None:
    policy = Policy.parse(allow=["/v1/*", "GET /health"], deny=["DELETE /v1/*"])
    assert policy.refusal("GET", b"/v1/models") is None
    assert policy.refusal("GET", b"/health") is None
    assert policy.refusal("POST", b"/health") == "is not allowed by serve's --allow"
    assert policy.refusal("DELETE", b"/v1/models/x") == "is rejected by serve's --deny 'DELETE /v1/*'"
    only_deny = Policy.parse(deny=["/api/pull"])
    assert only_deny.refusal("GET", b"/anything") is None


def test_a_ready_set_and_allow_patterns_add_up_and_deny_wins_over_both() -> None:
    policy = Policy.parse(ready="openai", allow=["/health"], deny=["/v1/embeddings"])
    assert policy.refusal("GET", b"/health") is None
    assert policy.refusal("POST", b"/v1/chat/completions") is None
    assert policy.refusal("POST", b"/v1/embeddings") is not None
    assert policy.refusal("GET", b"/metrics") == ("is not allowed by serve's --policy openai and --allow")


INFERENCE = [
    "GET /v1/models",
    "GET /v1/models/meta-llama/Llama-3",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /v1/responses",
    "POST /chat/completions",
    "POST /v1/rerank",
    "POST /tokenize",
]
OLLAMA = [
    "HEAD /",
    "GET /api/version",
    "GET /api/tags",
    "GET /api/ps",
    "POST /api/show",
    "POST /api/chat",
    "POST /api/generate",
    "POST /api/embed",
    "POST /api/embeddings",
]
HARM = [
    "POST /api/pull",
    "POST /api/push",
    "POST /api/create",
    "POST /api/copy",
    "DELETE /api/delete",
    "HEAD /api/blobs/sha256:0",
    "POST /api/blobs/sha256:0",
    "POST /api/signout",
    "DELETE /v1/models/x",
    "GET /v1/responses/resp_1",
    "DELETE /v1/responses/resp_1",
    "POST /v1/files",
    "POST /v1/load_lora_adapter",
    "GET /metrics",
    "GET /chat/completions",
    "POST /v1/chat/completions/",
    "POST /V1/chat/completions",
]


@pytest.mark.parametrize("name", ["openai", "ollama"])
def test_the_ready_sets_are_inference_and_nothing_that_changes_what_is_there(name: str) -> None:
    policy = Policy.parse(ready=name)

    def passes(line: str) -> bool:
        method, path = line.split()
        return policy.refusal(method, path.encode()) is None

    assert all(map(passes, INFERENCE))
    assert not any(map(passes, HARM))
    assert all(passes(line) is (name == "ollama") for line in OLLAMA)


def test_everything_passes_where_nothing_was_chosen_or_all_was() -> None:
    assert not Policy().chosen
    assert Policy.parse(ready="all").chosen
    for policy in (Policy(), Policy.parse(ready="all")):
        assert not policy.restricts
        assert policy.refusal("DELETE", b"//..%2F") is None
    assert set(READY) == {"all", "openai", "ollama"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "v1",
        "*",
        "GET",
        "GET /a /b",
        "GET  POST /x",
        "G@T /x",
        "/a?b",
        "/a//b",
        "/a/../b",
        "/a%2Fb",
        "/é",
        "/a;b",
        "FETCH /v1/models",
        "GETS /x",
        "GET,POST /x",
        "GET|POST /x",
        "CONNECT /x",
        "* /x",
        "/v1/models GET",
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        Policy.parse(allow=[text])
    assert caught.value.hint


METHODS = "GET HEAD POST PUT DELETE OPTIONS TRACE PATCH QUERY PROPFIND MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH"


@pytest.mark.parametrize("method", [*METHODS.split(), "get", "Post", "propfind"])
def test_a_method_of_http_or_webdav_is_known_in_any_case(method: str) -> None:
    assert str(Rule.parse(f"{method} /x")) == f"{method.upper()} /x"


@pytest.mark.parametrize("flag", ["allow", "deny"])
@pytest.mark.parametrize("method", ["FETCH", "GTE", "fetch", "G@T", "CONNECT", "PRI"])
def test_a_method_that_does_not_exist_is_refused_with_those_that_do(method: str, flag: str) -> None:
    with pytest.raises(SettingError, match="is not an HTTP method") as caught:
        Policy.parse(**{flag: [f"{method} /v1/models"]})  # type: ignore[arg-type]
    assert all(known in caught.value.hint for known in ("GET", "POST", "PATCH", "WebDAV", "every method"))


def test_a_rule_that_is_made_by_hand_is_held_to_the_same() -> None:
    with pytest.raises(SettingError):
        Rule(method="FETCH", path="/x")


def test_a_policy_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingError) as caught:
        Policy.parse(ready="openia")
    assert "openai" in caught.value.hint


def test_patterns_are_shown_as_they_were_meant() -> None:
    assert [str(Rule.parse(text)) for text in ("/v1/*", "get  /v1/models")] == ["/v1/*", "GET /v1/models"]
