"""A durable sender and receiver that are killed and run again, as real processes, and what breaks the connections between them.

The sender is fed as a producer would: what its spool says is accepted is not given again.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from mysocket.failpoints import VARIABLE
from mysocket.options import MAX_SPOOL
from mysocket.spool import inbox
from mysocket.spool.inbox import InboxState
from mysocket.spool.ledger import Entry
from mysocket.spool.lock import SPOOL, open_directory
from mysocket.spool.store import CONTROL, FILES, State, Store
from tests.support.processes import DEVNULL, PIPE, TIMEOUT, Program, acquaint, free_port, mysocket, wait_until
from tests.support.service import TWISTD

T = TypeVar("T")

RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset, and what is queued is lost


class Relay:
    """Joins everybody who connects to `port` with 127.0.0.1:`target`, and breaks connections where a test wants it.

    While `abrupt` is set, the end of one side of a connection is a reset for the other, and what was on the way is lost.
    """

    def __init__(self, target: int) -> None:
        self.abrupt = False
        self._target = target
        self._joined: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._join, sock=listener))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT)

    async def _join(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            back, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _break(client)
            return
        joint = client, server
        self._joined.add(joint)
        finish: Callable[[asyncio.StreamWriter], None] = _break
        try:
            await asyncio.gather(self._pass_on(reader, server), self._pass_on(back, client))
            finish = asyncio.StreamWriter.close
        except OSError:
            pass
        finally:
            self._joined.discard(joint)
            for end in joint:
                finish(end)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        if self.abrupt:
            raise ConnectionResetError
        sink.write_eof()

    def reset(self) -> int:
        """Reset every connection now, on both sides; returns how many there were."""
        return self._call(self._reset())

    async def _reset(self) -> int:
        joined = list(self._joined)
        for joint in joined:
            for end in joint:
                _break(end)
        return len(joined)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


def _break(end: asyncio.StreamWriter) -> None:
    """Close with a reset; nothing more happens where both directions have ended."""
    with contextlib.suppress(OSError):
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.transport.abort()


class Spool:
    """What a spool directory holds, looked at while no process has it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def state(self) -> State | None:
        """What it says of itself; None: it is not made yet."""
        return found[0] if (found := self._look()) else None

    def received(self) -> list[Entry]:
        """What it has received, by stream."""
        return found[1] if (found := self._look()) else []

    def inbox(self) -> InboxState:
        """What a service keeps in it."""
        found = self._look()
        assert found is not None
        return found[2]

    def _look(self) -> tuple[State, list[Entry], InboxState] | None:
        if not (self.path / SPOOL).exists():
            return None
        directory = open_directory(str(self.path), role="spool", create=False, known=FILES)
        try:
            store = Store(directory, MAX_SPOOL, readonly=True)
            try:
                return store.state(), list(store.entries().values()), inbox.state(store)
            finally:
                store.close()
        finally:
            directory.close()


class Pair:
    """A sender with a spool and a receiver with one, which listen and dial each other, over any number of processes.

    :param directory: where spools and output file are, unless another place is given for them.
    :param send: further options of the sender.
    :param receive: further options of the receiver.
    :param to_file: False: the receiver writes to stdout.
    :param durable_sender: False: the sender has no spool.
    :param hub: the receiver only listens.
    :param service: the receiver is a service of `twistd -n`, which keeps what it receives in its inbox.
    """

    def __init__(
        self,
        directory: Path,
        *,
        send: Sequence[str] = (),
        receive: Sequence[str] = (),
        to_file: bool = True,
        durable_sender: bool = True,
        hub: bool = False,
        service: bool = False,
        sender_spool: Path | None = None,
        output: Path | None = None,
    ) -> None:
        self.output = output or directory / "out"
        self.sender_spool = Spool(sender_spool or directory / "a")
        self.receiver_spool = Spool(directory / "b")
        #: What each process of the receiver has written to stdout, where that is the sink.
        self.written: list[bytes] = []
        self._sender: Program | None = None
        self._receiver: Program | None = None
        self._consumer: Program | None = None
        self._to_file = to_file
        self._stack = contextlib.ExitStack()
        here, there = free_port(), free_port()
        #: What the two dial each other through.
        self.relays = [self._stack.enter_context(Relay(port)) for port in (here, there)]
        to_here, to_there = (f"127.0.0.1:{relay.port}" for relay in self.relays)
        self._send = ["-p", str(here), "--peer", to_there, "--send-only", *send]
        if durable_sender:
            self._send += ["--spool", str(self.sender_spool.path)]
        self._receive = ["-p", str(there), "--recv-only", "--spool", str(self.receiver_spool.path), *receive]
        if not service:
            self._receive += ["-k"]
        if not hub:
            self._receive += ["--peer", to_here]
        if to_file:
            self._receive += ["--output", str(self.output)]
        self._service = service
        #: For a service and who talks to it: its sockets are not in this machine's run-time directory.
        self.env = {"XDG_RUNTIME_DIR": str(directory)}
        self._begins = 0
        self._given: int | None = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for program in (self._sender, self._receiver, self._consumer):
            if program is not None:
                program.close()
        self._stack.close()

    @property
    def sender(self) -> Program:
        """The latest process of the sender."""
        assert self._sender is not None, "the sender was never run"
        return self._sender

    @property
    def receiver(self) -> Program:
        """The latest process of the receiver."""
        assert self._receiver is not None, "the receiver was never run"
        return self._receiver

    def report(self) -> str:
        """What a person needs to see when something went wrong."""
        return "\n".join(program.report() for program in (self._sender, self._receiver) if program is not None)

    # The input

    def begin_input(self) -> None:
        """A new input begins: all of the one before is accepted, and no sender runs."""
        state = self.sender_spool.state()
        self._begins = state.end if state is not None else 0

    def accepted(self) -> int | None:
        """How many bytes of the input are accepted; None: all, and its end mark too. Asked while no sender runs."""
        state = self.sender_spool.state()
        if state is None or state.end == self._begins:
            return 0
        return None if state.input_complete else state.input_size

    def feed(self, data: bytes, *, end: bool = True) -> None:
        """Give the sender what it has not got of `data`, the input from its beginning, and with `end` the end of the input."""
        if self._given is not None:
            self.sender.write(data[self._given :])
            self._given = len(data)
        if end or self._given is None:
            self.sender.close_stdin()

    # The processes

    def start_sender(self, *, crash_at: str = "", env: dict[str, str] | None = None) -> Program:
        """Run the sender (again)."""
        if self._sender is not None:
            self._sender.close()
        self._given = self.accepted()
        self._sender = mysocket(*self._send, stdin=PIPE, env={VARIABLE: crash_at, **(env or {})})
        self._acquaint()
        return self._sender

    def start_receiver(self, *, crash_at: str = "", env: dict[str, str] | None = None) -> Program:
        """Run the receiver (again)."""
        if self._receiver is not None:
            self._receiver.close()
        stdout = DEVNULL if self._to_file or self._service else PIPE
        variables = {VARIABLE: crash_at, **self.env, **(env or {})}
        if self._service:
            argv = [*TWISTD, "-n", "--pidfile=", "mysocket", *self._receive]
            self._receiver = Program(argv, stdin=DEVNULL, stdout=stdout, env=variables)
        else:
            self._receiver = mysocket(*self._receive, stdin=DEVNULL, stdout=stdout, env=variables)
        self._acquaint()
        return self._receiver

    def consumer(self, name: str) -> Program:
        """Somebody who reads the inbox of the service, over its restarts, and acknowledges what was read."""
        wait_until(lambda: (self.receiver_spool.path / CONTROL).exists(), "no control socket", TIMEOUT, self.receiver)
        words = ("attach", "--recv-only", "--json", "--as", name, "--spool", str(self.receiver_spool.path))
        self._consumer = mysocket(*words, stdin=DEVNULL, env=self.env)
        self._acquaint()
        return self._consumer

    def start(self, *, sender: str = "", receiver: str = "") -> None:
        """Run whichever does not run, with these crash labels."""
        if self._receiver is None or not self._receiver.running():
            self.start_receiver(crash_at=receiver)
        if self._sender is None or not self._sender.running():
            self.start_sender(crash_at=sender)

    def _acquaint(self) -> None:
        acquaint(*(program for program in (self._sender, self._receiver, self._consumer) if program is not None))

    def kill(self, program: Program) -> int:
        """Kill the process; returns its status, which is another one if it had ended by itself."""
        program.kill()
        return self.over(program)

    def over(self, program: Program, timeout: float = TIMEOUT) -> int:
        """Wait for the end of the process; returns its status."""
        status = program.wait(timeout)
        if program is self._receiver and not self._to_file and not self._service:
            self.written.append(program.stdout)
        return status
