"""What may still come in for questions that stayed without a reply, as a value."""

from coexistence.transport import Suspect


def about(address: bytes, *, until: float, examples: tuple[bytes, ...] = ()) -> Suspect:
    return Suspect(b"Q" + address, "owner", b"\n", lambda reply: reply.startswith(address), until, examples=examples)


def test_both_late_replies_are_expected_until_the_later_time():
    both = about(b"2", until=5.0).joined_by(about(b"3", until=4.0))
    assert both.replies == 2
    assert both.until == 5.0
    assert both.accept is not None
    assert both.accept(b"2PO")
    assert both.accept(b"3PO")
    assert not both.accept(b"4PO")


def test_exchange_is_spared_only_if_it_refuses_the_replies_of_all():
    first = about(b"2", until=5.0, examples=(b"2PO",))
    second = about(b"3", until=5.0, examples=(b"3PO",))
    both = first.joined_by(second)
    assert first.spares(lambda reply: reply.startswith(b"3"))
    assert not both.spares(lambda reply: reply.startswith(b"3"))
    assert both.spares(lambda reply: reply.startswith(b"4"))


def test_nobody_is_spared_while_one_of_the_replies_is_unknown():
    both = about(b"2", until=5.0, examples=(b"2PO",)).joined_by(about(b"3", until=5.0))
    assert not both.spares(lambda reply: reply.startswith(b"4"))
