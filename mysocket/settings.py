"""What a command line means: the values of its options, judged together, as :class:`Settings`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mysocket.errors import UsageError
from mysocket.options import EXCLUSIVE, FLAG, MAX_SPOOL, OPTIONS, REPEAT, Cut
from mysocket.specs import Place, Spec
from mysocket.values import bracketed, is_endpoint, port_number, split_host_port

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

# The three ways to call the program, for the usage lines and for errors about positional arguments.
CLASSIC = "mysocket [options] LISTENER_PORT RECEIVER_HOST RECEIVER_PORT"
DIAL = "mysocket [options] --peer HOST:PORT"
LISTEN = "mysocket [options] -p PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a valid command line says.

    `port` is digits (0 to 65535), or else a Twisted server endpoint string. `peer` is ``host:port`` or ``[v6]:port``, unless
    `is_endpoint` says that it is a client endpoint string. With `udp` there are none but ``systemd:…`` as `port`. One of them is
    given. Times are seconds, sizes bytes.
    """

    port: str | None
    peer: str | None
    udp: bool
    raw: bool
    bind: str | None
    allow: tuple[IPv4Network | IPv6Network, ...]
    cut: Cut
    send_only: bool
    recv_only: bool
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    download_dir: str | None
    json: bool
    timestamps: bool
    plain_terminal: bool
    wait: float | None
    linger: float | None
    keep_open: bool
    max_message: int
    spool: str | None
    max_spool: int
    accept_loss: bool
    metrics: tuple[str, int] | None
    log_format: str
    verbose: bool
    quiet: bool

    @property
    def output_file(self) -> str | None:
        """The (first) file to write to, or None."""
        return next((spec.target for spec in self.outputs if spec.place is Place.FILE), None)

    @property
    def style(self) -> str:
        """How messages are written: ``plain``, ``json`` or ``timestamps``."""
        return "json" if self.json else "timestamps" if self.timestamps else "plain"

    @property
    def only_file(self) -> bool:
        """Does what is received go to one file, or to stdout, and nowhere else?"""
        return len(self.outputs) < 2 and all(spec.place in (Place.FILE, Place.STANDARD) for spec in self.outputs)

    @property
    def reads_stdin(self) -> bool:
        """Is stdin an input?"""
        return not self.recv_only and (not self.inputs or any(spec.place is Place.STANDARD for spec in self.inputs))

    @property
    def other_inputs(self) -> tuple[Spec, ...]:
        """Those besides stdin."""
        return tuple(spec for spec in self.inputs if spec.place is not Place.STANDARD)

    @property
    def endless(self) -> bool:
        """Is there an input that never ends?"""
        return any(spec.place not in (Place.STANDARD, Place.FILE) for spec in self.inputs)

    @property
    def writes_stdout(self) -> bool:
        """Is stdout an output?"""
        return not self.send_only and (not self.outputs or any(spec.place is Place.STANDARD for spec in self.outputs))


def _listener(text: str) -> str:
    if ":" in text:
        raise UsageError(f"port {text!r} is not a number; the address to listen on is given with --bind ADDR")
    return str(port_number(text, lowest=0))


def _peer(text: str) -> str:
    host, port = split_host_port(text)
    return f"{bracketed(host)}:{port}"


def _classic(port: str | None, peer: str | None, positionals: Sequence[str]) -> tuple[str | None, str | None]:
    """Port and peer, from options or from LISTENER_PORT RECEIVER_HOST RECEIVER_PORT."""
    match positionals:
        case []:
            return port, peer
        case [only]:
            raise UsageError(
                f"one argument, {only!r}, is not enough; to listen: mysocket -p {only if only.isdigit() else 'PORT'}; "
                f"to dial: mysocket --peer {only if ':' in only else 'HOST:PORT'}"
            )
        case [host, number]:
            form = f"--peer {bracketed(host)}:{number}"
            raise UsageError(
                f"two arguments are not enough; to dial another MySocket: mysocket {form}; to dial nc, socat or anything else: "
                f"mysocket {form} --raw; to listen as well: mysocket LISTENER_PORT {host} {number}"
            )
        case [listener, host, number]:
            if port is not None or peer is not None:
                raise UsageError(f"the port and the peer are given twice; use either {CLASSIC}, or -p and --peer")
            return listener, _peer(f"{bracketed(host)}:{number}")
        case _:
            raise UsageError(f"{len(positionals)} arguments are too many; the form is {CLASSIC}")


def _check_spool(fields: Mapping[str, Any]) -> None:
    if fields["spool"] is not None:
        if fields["raw"] or fields["udp"]:
            how = "--raw" if fields["raw"] else "--udp"
            raise UsageError(f"--spool and {how} exclude each other: without acknowledgements nobody knows what may be forgotten")
    elif fields["accept_loss"] and fields["download_dir"] is None:
        raise UsageError("--accept-loss says what to do about a spool; there is none without --spool DIR")
    elif fields["max_spool"] != MAX_SPOOL:
        raise UsageError("--max-spool is the size of a spool; there is none without --spool DIR")


def _check_downloads(fields: Mapping[str, Any]) -> None:
    if fields["download_dir"] is not None and (fields["raw"] or fields["udp"]):
        how = "--raw" if fields["raw"] else "--udp"
        raise UsageError(f"--download-dir and {how} exclude each other: files need the MySocket protocol")


def _check_files(inputs: Sequence[Spec], outputs: Sequence[Spec]) -> None:
    """A file is read once, for it has one place in the spool; written once, for what is in it is counted; and never both."""
    written: dict[str, Spec] = {}
    for spec in outputs:
        if spec.place is Place.FILE and (first := written.setdefault(os.path.realpath(spec.target), spec)) is not spec:
            raise UsageError(f"--output {first} and {spec} are the same file; give it once")
    files = [spec for spec in inputs if spec.place in (Place.FILE, Place.FOLLOW)]
    if not files:
        return
    from mysocket.inputs.place import known_as

    known: dict[str, Spec] = {}
    for spec in files:
        if (first := known.setdefault(known_as(spec.target), spec)) is not spec:
            raise UsageError(f"--input {first} and {spec} are the same file; give it once")
        if os.path.realpath(spec.target) in written:
            raise UsageError(f"--input {spec} is also an output: what arrives would be sent back; give another file")


def _check_places(fields: Mapping[str, Any]) -> None:
    """Inputs and outputs, together with how the input is cut and what carries it."""
    inputs: tuple[Spec, ...] = fields["inputs"]
    outputs: tuple[Spec, ...] = fields["outputs"]
    for name, specs in (("input", inputs), ("output", outputs)):
        for spec in specs:
            if specs.count(spec) > 1:
                raise UsageError(f"--{name} {spec} is given twice")
    _check_files(inputs, outputs)
    if fields["raw"] or fields["udp"]:
        for spec in inputs:
            if spec.place is not Place.STANDARD:
                how = "--raw" if fields["raw"] else "--udp"
                raise UsageError(
                    f"--input {spec} and {how} exclude each other: inputs other than stdin need the MySocket protocol"
                )
    alone = len(inputs) < 2 and all(spec.place in (Place.STANDARD, Place.FILE) for spec in inputs)
    for cut in ("stream", "whole"):
        if fields["cut"] == cut and not alone:
            given = ", ".join(map(str, inputs))
            raise UsageError(f"--{cut} is for one input with an end, stdin or a file; of {given} each line is a message")
    files = [spec for spec in outputs if spec.place is Place.FILE]
    if fields["spool"] is not None and len(files) > 1:
        raise UsageError(
            f"--spool keeps the length of one output file, and {len(files)} are given: {', '.join(map(str, files))}; "
            "run one mysocket for each, or leave the copying to something else"
        )


def settings(values: Mapping[str, object], positionals: Sequence[str]) -> Settings:
    """The Settings of a command line: `values`, already read, by the long names of the options, and the positional arguments."""
    for first, second, why in EXCLUSIVE:
        if values.get(first) and values.get(second):
            raise UsageError(f"--{first} and --{second} exclude each other: {why}")
    cut: Cut = "stream" if values.get("stream") else "whole" if values.get("whole") else "null" if values.get("null") else "lines"
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        if option.field:
            value: Any = values.get(option.long, option.default)
            fields[option.field] = bool(value) if option.kind == FLAG else tuple(value) if option.kind == REPEAT else value
    fields["cut"] = cut
    _check_places(fields)
    _check_spool(fields)
    _check_downloads(fields)
    port, peer = _classic(fields["port"], fields["peer"], positionals)
    if fields["metrics"] is not None and port == str(fields["metrics"][1]) != "0" and not fields["udp"]:
        raise UsageError(f"-p and --metrics name the same port, {port}; give another to one of them")
    if port is None and peer is None:
        raise UsageError(f"nowhere to listen and nobody to dial; the forms are:\n  {CLASSIC}\n  {DIAL}\n  {LISTEN}")
    endpoints = [port] if port is not None and is_endpoint(port, listening=True) else []
    endpoints += [peer] if peer is not None and is_endpoint(peer) else []
    # systemd may have opened a UDP socket.
    without = [text for text in endpoints if text is not port or not text.startswith("systemd:")]
    if fields["udp"] and without:
        raise UsageError(
            f"endpoint string {without[0]!r}: there are none for UDP; write the port as a number (or systemd:…), the peer as "
            "HOST:PORT"
        )
    endpoints += [spec.target for spec in fields["inputs"] if spec.place is Place.ENDPOINT and not spec.names_its_address]
    if fields["bind"] and endpoints:
        raise UsageError(
            f"--bind does not reach into an endpoint string; {endpoints[0]!r} has to name the address itself (:interface=ADDR)"
        )
    if port is not None and port not in endpoints:
        port = _listener(port)
    if peer is not None and peer not in endpoints:
        peer = _peer(peer)
    return Settings(**{**fields, "port": port, "peer": peer})
