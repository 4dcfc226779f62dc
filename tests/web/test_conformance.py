"""The JavaScript core passes the Python core's own tests, as the proxy, towards the Python core as serve.

So there is one definition of the protocol's behaviour. The tests are those of tests/protocol, with a proxy in
JavaScript. `LEFT_OUT` names the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from llmtunnel.status import Role

from ..protocol import test_auth, test_breaches, test_connection, test_lanes, test_resume
from ..protocol.test_auth import *  # noqa: F403
from ..protocol.test_breaches import *  # noqa: F403
from ..protocol.test_connection import *  # noqa: F403
from ..protocol.test_interleavings import Interleavings
from ..protocol.test_lanes import *  # noqa: F403
from ..protocol.test_lanes import ResumingApart
from ..protocol.test_resume import *  # noqa: F403
from ..support import core_pair
from .node import Calls
from .web_core import connection_of, greeting_of

LEFT_OUT = {
    "test_who_only_looks_proves_nothing_where_that_would_use_the_secret_up": "a page is no doctor",
    "test_what_one_side_tells_the_other_one_hears_as_it_was": "PATH is for peers that can dial TCP",
    "test_it_is_not_for_the_wrong_side_to_send_nor_to_be_sent_unless_it_is_agreed_on": "the same",
    "test_one_that_its_codec_refuses_ends_the_session_and_one_from_the_wrong_side_is_skipped": "the same",
    "test_a_frame_that_was_cut_and_not_yet_sent_is_sent_once_on_the_next_channel": "it looks into the outbox",
    "test_without_the_feature_nothing_is_kept_and_nothing_numbered": "it looks into the receipts",
    "test_counts_that_make_no_sense_are_refused": "it is about HELLO as serve reads it",
    "test_bulk_on_one_lane_leaves_every_other_one_a_share_of_the_journal": "it is about the Python journal alone",
    "test_journals_that_are_asked_first_never_hold_more_than_their_limit": "the same",
    "test_of_ten_thousand_streams_so_many_are_taken_and_the_others_refused": "it is about serve",
    "test_a_stream_cannot_be_of_a_client_that_comes_later": "the same",
    "test_serve_takes_twice_as_many_streams_since_their_ends_may_be_late": "the same",
    "test_requests_that_are_given_up_before_they_are_sent_leave_nothing_to_send": "it makes 20,000 calls",
    "TestInterleavingsApart": "`TestResumingApart` includes it",
    "TestResumingLanes": "the same",
    "TestResuming": "the same",
}
"""What is not run here, and why."""

for name in LEFT_OUT:
    del globals()[name]

TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=15, stateful_step_count=50)

TestResumingApart = ResumingApart.TestCase
TestResumingApart.settings = settings(max_examples=25, stateful_step_count=60)


@pytest.fixture(scope="module", autouse=True)
def in_javascript() -> Iterator[None]:
    """Every proxy's core is JavaScript."""
    with pytest.MonkeyPatch.context() as patch, Calls() as calls:
        for module in (core_pair, test_resume, test_lanes, test_auth, test_breaches, test_connection):
            for name, stand_in in (("Greeting", greeting_of(calls)), ("Connection", connection_of(calls))):
                if hasattr(module, name):
                    patch.setattr(module, name, stand_in)
        yield


@pytest.fixture
def role() -> Role:
    """Of the core that is tested."""
    return Role.PROXY
