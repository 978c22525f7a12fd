"""The connection breaks exactly at the last acknowledgement: nobody gets a wrong status, nothing comes twice."""

from __future__ import annotations

import pytest

from mysocket.core.wire import Ack, Bye, Frame
from tests.support.processes import Program, acquaint, mysocket
from tests.support.proxy import CuttingProxy

LINES = b"one\ntwo\nthree\n"
END = len(LINES) + 1


def the_last(frame: Frame) -> bool:
    return isinstance(frame, Ack) and frame.position == END


def receiver_for(*options: str | int) -> Program:
    return mysocket("-p", 0, "--recv-only", *options)


@pytest.mark.parametrize("times", [1, 3])
def test_the_sender_comes_back_to_hear_it_again(times: int) -> None:
    with receiver_for() as receiver:
        left = [times]

        def cut(frame: Frame) -> bool:
            if the_last(frame) and left[0]:
                left[0] -= 1
                return True
            return False

        with (
            CuttingProxy(receiver.listening_port(), cut) as proxy,
            mysocket("--peer", f"127.0.0.1:{proxy.port}", "--send-only", stdin=LINES) as sender,
        ):
            acquaint(sender, receiver)
            sender.wait_status(0)
            receiver.wait_status(0)
            assert proxy.cuts == times and receiver.stdout == LINES


def test_a_sender_that_never_hears_it_gives_up_with_3_and_the_receiver_has_everything_and_leaves_with_0() -> None:
    with receiver_for("-q", "2") as receiver:

        def cut(frame: Frame) -> bool:
            if the_last(frame):
                proxy.refuse = True
                return True
            return False

        with (
            CuttingProxy(receiver.listening_port(), cut) as proxy,
            mysocket("--peer", f"127.0.0.1:{proxy.port}", "--send-only", "-w", "3", stdin=LINES) as sender,
        ):
            acquaint(sender, receiver)
            receiver.wait_status(0)
            sender.wait_status(3)
            assert receiver.stdout == LINES


def test_a_lost_bye_does_not_matter() -> None:
    """The receiver's own last word is lost: the sender has its acknowledgement, and leaves with 0."""
    with (
        receiver_for() as receiver,
        CuttingProxy(receiver.listening_port(), lambda frame: isinstance(frame, Bye)) as proxy,
        mysocket("--peer", f"127.0.0.1:{proxy.port}", "--send-only", stdin=LINES) as sender,
    ):
        acquaint(sender, receiver)
        sender.wait_status(0)
        receiver.wait_status(0)
        assert receiver.stdout == LINES
