"""Binary blocks of IEEE 488.2 in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coexistence import BlockError, block_end, block_payload, make_block


@given(data=st.binary(max_size=300), tail=st.sampled_from([b"", b"next"]))
def test_a_block_ends_behind_its_terminator_whatever_it_contains(data, tail):
    reply = make_block(data) + b"\n"
    received = reply + tail
    assert block_end(received) == len(reply)
    for size in range(len(reply)):
        end = block_end(received[:size])
        assert end <= 0
        assert -end <= len(reply)
    assert block_payload(reply) == data


def test_a_reply_that_is_no_block_ends_with_its_terminator():
    assert block_end(b"0,NO DATA\nmore") == 10
    assert block_end(b"0,NO DATA") == 0
    assert block_end(b"#H1F\n") == 5


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"1.5,2.5", "does not start with '#'"),
        (b"#15ab", "announces 5 bytes and has 2"),
        (b"#3x00", "length is not a number"),
        (b"", "does not start"),
    ],
)
def test_a_reply_that_is_no_block_is_an_error_that_shows_it(reply, reason):
    with pytest.raises(BlockError, match=reason) as caught:
        block_payload(reply)
    assert caught.value.reply == reply


def test_an_indefinite_block_is_the_rest_of_the_message():
    assert block_payload(b"#0abc\n\n") == b"abc\n"
