"""A conversation held against a table of sent and expected bytes instead of a wire."""

from devices.protocols.conversation import Answer, Ask, Conversation, T


def hold(conversation: Conversation[T], *exchanges: tuple[bytes, bytes | None]) -> T:
    """Answer a conversation from a table; fails when a byte differs or an exchange is left over.

    A reply of None stands for a command without reply. Replies are numbered through their timestamps.
    """
    left = list(exchanges)
    number = 0
    try:
        step = next(conversation)
        while True:
            assert left, f"nothing more was expected, but {step} was sent"
            sent, reply = left.pop(0)
            assert step.command == sent
            if isinstance(step, Ask):
                assert reply is not None, f"{sent!r} waits for a reply"
                if step.accept is not None:
                    assert step.accept(reply), f"{reply!r} was not accepted as the reply to {sent!r}"
                number += 1
                step = conversation.send(Answer(reply, float(number)))
            else:
                assert reply is None, f"{sent!r} waits for no reply"
                step = next(conversation)
    except StopIteration as stop:
        assert not left, f"never sent: {left}"
        return stop.value


def flood(conversation: Conversation[T], reply: bytes, limit: int = 100) -> T:
    """Answer every question with the same bytes."""
    try:
        step = next(conversation)
        for _ in range(limit):
            step = conversation.send(Answer(reply, 0.0)) if isinstance(step, Ask) else next(conversation)
    except StopIteration as stop:
        return stop.value
    raise AssertionError(f"still asking after {limit} exchanges")
