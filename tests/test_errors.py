from __future__ import annotations

import inspect
import re
import traceback

import pytest

from llmtunnel import errors
from llmtunnel.errors import AddressInUse, ErrorCode, ProtocolError, StreamReset, TunnelError, WaitTimeout

KINDS = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, TunnelError)]
LINE = re.compile(r"(?P<rails>[│ ├└─]*)(?P<name>[A-Z]\w+)  +(?P<meaning>\S.*)")


def drawn() -> dict[str, str]:
    """What the module's docstring draws: each name, and the one that it hangs on."""
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        if match := LINE.fullmatch(line.strip("\n")):
            depth = len(match["rails"]) // 4
            above[depth] = match["name"]
            parents[match["name"]] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_that_the_docstring_draws_is_the_tree() -> None:
    assert drawn() == {kind.__name__: kind.__bases__[0].__name__ for kind in KINDS}


def test_every_error_is_public_and_nothing_else_is() -> None:
    assert {*errors.__all__} == {kind.__name__ for kind in KINDS} | {"ErrorCode"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_says_in_a_line_what_it_means(kind: type[TunnelError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.splitlines()[0].endswith(".") or ";" in kind.__doc__


def test_a_traceback_ends_with_message_and_hint() -> None:
    error = TunnelError("It failed.", hint="Do something.")
    assert traceback.format_exception_only(error) == ["llmtunnel.errors.TunnelError: It failed.\n", "Do something.\n"]
    copy = error.again()
    copy.add_note("More.")
    assert error.__notes__ == ["Do something."]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in (AddressInUse, StreamReset)])
def test_the_text_is_the_sentence_and_the_hint_is_apart(kind: type[TunnelError]) -> None:
    error = kind("It failed.", hint="Do something.") if kind is not ProtocolError else ProtocolError("It failed.")
    assert str(error) == error.message == "It failed."
    assert error.hint in ("Do something.", "")


def test_exit_statuses_are_the_ones_of_the_manual() -> None:
    statuses = {kind.__name__: kind.exit_code for kind in KINDS if kind.exit_code != 1}
    assert statuses == {
        "SettingError": 2,
        "AddressInUse": 2,
        "UpstreamNotFound": 2,
        "AccessDenied": 3,
        "AuthenticationFailed": 3,
        "Unwelcome": 3,
        "VersionMismatch": 4,
    }


def test_an_address_in_use_says_which_port_is_free() -> None:
    error = AddressInUse("127.0.0.1:8000", next_free=8001)
    assert "127.0.0.1:8000" in str(error)
    assert "8001" in error.hint
    assert error.next_free == 8001
    assert "--listen" in AddressInUse("127.0.0.1:8000", next_free=None).hint


def test_a_wait_that_ran_out_is_a_timeout_to_those_who_know_no_better() -> None:
    assert issubclass(WaitTimeout, TimeoutError)


def test_codes_are_the_ones_of_the_wire() -> None:
    assert [(code.value, code.name) for code in ErrorCode] == [
        (0, "NO_ERROR"),
        (1, "CANCELLED"),
        (2, "PROTOCOL"),
        (3, "FLOW_CONTROL"),
        (4, "REFUSED"),
        (5, "UPSTREAM"),
        (6, "TRUNCATED"),
        (7, "TOO_LARGE"),
        (8, "VERSION"),
        (9, "INTERNAL"),
        (10, "UNAUTHENTICATED"),
        (11, "UNWELCOME"),
    ]
    assert StreamReset(ErrorCode.UPSTREAM, "It broke.").remote
    assert ProtocolError("It broke.").code is ErrorCode.PROTOCOL


def make(kind: type[TunnelError]) -> TunnelError:
    """One of this kind, with all that its kind may carry."""
    if kind is AddressInUse:
        return AddressInUse("127.0.0.1:8000", next_free=8001)
    if kind is StreamReset:
        return StreamReset(ErrorCode.UPSTREAM, "It failed.", remote=False)
    if kind is ProtocolError:
        return ProtocolError("It failed.", code=ErrorCode.TOO_LARGE)
    return kind("It failed.", hint="Do something.")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_that_is_kept_is_raised_as_a_copy_that_tells_the_same(kind: type[TunnelError]) -> None:
    kept, cause = make(kind), OSError("The reason.")
    try:
        raise kept from cause
    except TunnelError:
        size = len([*traceback.walk_tb(kept.__traceback__)])
    for _ in range(3):
        with pytest.raises(kind) as caught:
            raise kept.again()
        copy = caught.value
        assert copy is not kept
        assert (type(copy), str(copy), vars(copy), copy.args) == (kind, str(kept), vars(kept), kept.args)
        assert copy.__cause__ is cause
        assert len([*traceback.walk_tb(kept.__traceback__)]) == size
