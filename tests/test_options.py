"""Both front ends read every command line alike, and refuse the same ones in the same words."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.python import usage

from mysocket import tap
from mysocket._version import __version__
from mysocket.commandline import parse_command_line, parse_verb, spell_out
from mysocket.errors import UsageError
from mysocket.options import FLAG, OPTIONS, VERBS
from mysocket.settings import Settings, settings
from mysocket.specs import Place, Spec
from mysocket.values import is_endpoint, parse_control_port, parse_duration, parse_size, split_host_port


def file(name: str) -> Spec:
    return Spec(Place.FILE, name, name)


def udp(target: str) -> Spec:
    return Spec(Place.UDP, target, f"udp:{target}")


def endpoint(text: str) -> Spec:
    return Spec(Place.ENDPOINT, text, text)


STANDARD = Spec(Place.STANDARD, "", "-")
FOLLOWED = Spec(Place.FOLLOW, "/var/log/app.log", "follow:/var/log/app.log")

DEFAULTS = Settings(
    port=None,
    peer=None,
    udp=False,
    raw=False,
    bind=None,
    allow=(),
    cut="lines",
    send_only=False,
    recv_only=False,
    inputs=(),
    outputs=(),
    metrics=None,
    log_format="text",
    download_dir=None,
    json=False,
    timestamps=False,
    plain_terminal=False,
    wait=None,
    linger=None,
    keep_open=False,
    max_message=16 * 1024 * 1024,
    spool=None,
    max_spool=1024**3,
    accept_loss=False,
    verbose=False,
    quiet=False,
)

GOOD: list[tuple[str, dict[str, object]]] = [
    ("-p 9000", {"port": "9000"}),
    ("-p9000", {"port": "9000"}),
    ("--port 9000", {"port": "9000"}),
    ("--port=9000", {"port": "9000"}),
    ("-p 0", {"port": "0"}),
    ("-p 65535", {"port": "65535"}),
    ("-p 09000", {"port": "9000"}),
    ("-p 1 -p 2", {"port": "2"}),
    ("-p unix:/run/it", {"port": "unix:/run/it"}),
    ("-p tcp:9000", {"port": "tcp:9000"}),
    ("-p tcp:9000:interface=10.0.0.1", {"port": "tcp:9000:interface=10.0.0.1"}),
    ("-p systemd:domain=INET:index=0", {"port": "systemd:domain=INET:index=0"}),
    ("-p haproxy:tcp:9000", {"port": "haproxy:tcp:9000"}),
    ("--peer hub:9001", {"peer": "hub:9001"}),
    ("--peer 192.0.2.7:9001", {"peer": "192.0.2.7:9001"}),
    ("--peer [::1]:9001", {"peer": "[::1]:9001"}),
    ("--peer [fe80::1%eth0]:9001", {"peer": "[fe80::1%eth0]:9001"}),
    ("--peer tcp:9001", {"peer": "tcp:9001"}),
    ("--peer unix:/run/it", {"peer": "unix:/run/it"}),
    ("--peer tls:hub:9001", {"peer": "tls:hub:9001"}),
    ("--peer tcp:host=hub:port=9001", {"peer": "tcp:host=hub:port=9001"}),
    ("--peer plugin:path=/x", {"peer": "plugin:path=/x"}),
    ("-p 9000 --peer hub:9001", {"port": "9000", "peer": "hub:9001"}),
    ("9000 hub 9001", {"port": "9000", "peer": "hub:9001"}),
    ("9000 localhost 9000", {"port": "9000", "peer": "localhost:9000"}),
    ("9000 ::1 9001", {"port": "9000", "peer": "[::1]:9001"}),
    ("9000 [::1] 9001", {"port": "9000", "peer": "[::1]:9001"}),
    ("unix:/run/it hub 9001", {"port": "unix:/run/it", "peer": "hub:9001"}),
    ("--use-udp 9000 hub 9001", {"port": "9000", "peer": "hub:9001", "udp": True}),
    ("9000 hub 9001 --use-udp", {"port": "9000", "peer": "hub:9001", "udp": True}),
    ("9000 -J hub -k 9001", {"port": "9000", "peer": "hub:9001", "json": True, "keep_open": True}),
    ("-k -- 9000 hub 9001", {"port": "9000", "peer": "hub:9001", "keep_open": True}),
    ("-p 1 -u", {"port": "1", "udp": True}),
    ("-p 1 --udp", {"port": "1", "udp": True}),
    ("-p 1 --tcp", {"port": "1"}),
    ("-p 1 --udp --tcp", {"port": "1", "udp": True}),
    ("-p 1 --tcp --udp", {"port": "1", "udp": True}),
    ("-p 1 --udp --raw", {"port": "1", "udp": True, "raw": True}),
    ("-p 1 --bind 127.0.0.1", {"port": "1", "bind": "127.0.0.1"}),
    ("-p 1 --bind ::1", {"port": "1", "bind": "::1"}),
    ("-p 1 --allow 10.1.2.3/8", {"port": "1", "allow": (ip_network("10.0.0.0/8"),)}),
    (
        "-p 1 --allow 192.0.2.7 --allow=2001:db8::/32",
        {"port": "1", "allow": (ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))},
    ),
    ("-p 1 --stream", {"port": "1", "cut": "stream"}),
    ("-p 1 --whole", {"port": "1", "cut": "whole"}),
    ("-p 1 --null", {"port": "1", "cut": "null"}),
    ("-p 1 -0", {"port": "1", "cut": "null"}),
    ("-p 1 --send-only", {"port": "1", "send_only": True}),
    ("-p 1 --input -", {"port": "1", "inputs": (STANDARD,)}),
    (
        "-p 1 --bind 127.0.0.1 --input tcp:5140:interface=127.0.0.1",
        {
            "port": "1",
            "bind": "127.0.0.1",
            "inputs": (Spec(Place.ENDPOINT, "tcp:5140:interface=127.0.0.1", "tcp:5140:interface=127.0.0.1"),),
        },
    ),
    ("-p 1 --input app.log", {"port": "1", "inputs": (file("app.log"),)}),
    ("-p 1 --input ./udp:1", {"port": "1", "inputs": (file("./udp:1"),)}),
    ("-p 1 --input=-x", {"port": "1", "inputs": (file("-x"),)}),
    ("-p 1 --input follow:/var/log/app.log", {"port": "1", "inputs": (FOLLOWED,)}),
    ("-p 1 --input follow:a:b", {"port": "1", "inputs": (Spec(Place.FOLLOW, "a:b", "follow:a:b"),)}),
    ("-p 1 --input udp:5140", {"port": "1", "inputs": (udp("5140"),)}),
    ("-p 1 --input udp:0", {"port": "1", "inputs": (udp("0"),)}),
    ("-p 1 --input udp:systemd:index=0", {"port": "1", "inputs": (udp("systemd:index=0"),)}),
    ("-p 1 --input tcp:5140", {"port": "1", "inputs": (endpoint("tcp:5140"),)}),
    ("-p 1 --input tcp6:port=5140", {"port": "1", "inputs": (endpoint("tcp6:port=5140"),)}),
    ("-p 1 --input tcp:5140:interface=10.0.0.1", {"port": "1", "inputs": (endpoint("tcp:5140:interface=10.0.0.1"),)}),
    ("-p 1 --input unix:/run/in", {"port": "1", "inputs": (endpoint("unix:/run/in"),)}),
    ("-p 1 --input plugin:whatever", {"port": "1", "inputs": (endpoint("plugin:whatever"),)}),
    (
        "-p 1 --input - --input follow:/var/log/app.log --input udp:1",
        {"port": "1", "inputs": (STANDARD, FOLLOWED, udp("1"))},
    ),
    ("-p 1 --raw --input -", {"port": "1", "raw": True, "inputs": (STANDARD,)}),
    ("-p 1 --whole --input a", {"port": "1", "cut": "whole", "inputs": (file("a"),)}),
    ("-p 1 --stream --input -", {"port": "1", "cut": "stream", "inputs": (STANDARD,)}),
    ("-p 1 --null --input a --input b", {"port": "1", "cut": "null", "inputs": (file("a"), file("b"))}),
    ("-p 1 --recv-only --output=-x", {"port": "1", "recv_only": True, "outputs": (file("-x"),)}),
    ("-p 1 --output a=b", {"port": "1", "outputs": (file("a=b"),)}),
    ("-p 1 --output -", {"port": "1", "outputs": (STANDARD,)}),
    ("-p 1 --output ./hub:514", {"port": "1", "outputs": (file("./hub:514"),)}),
    ("-p 1 --output a:b", {"port": "1", "outputs": (file("a:b"),)}),
    ("-p 1 --output udp:hub:514", {"port": "1", "outputs": (udp("hub:514"),)}),
    ("-p 1 --output udp:[::1]:514", {"port": "1", "outputs": (udp("[::1]:514"),)}),
    ("-p 1 --output tcp:hub:514", {"port": "1", "outputs": (endpoint("tcp:hub:514"),)}),
    (r"-p 1 --output tcp:\:\:1:514:timeout=5", {"port": "1", "outputs": (endpoint(r"tcp:\:\:1:514:timeout=5"),)}),
    ("-p 1 --output tcp:host=hub:port=514", {"port": "1", "outputs": (endpoint("tcp:host=hub:port=514"),)}),
    ("-p 1 --output unix:/run/out", {"port": "1", "outputs": (endpoint("unix:/run/out"),)}),
    (
        "-p 1 --output - --output a --output b --output udp:hub:1",
        {"port": "1", "outputs": (STANDARD, file("a"), file("b"), udp("hub:1"))},
    ),
    ("-p 1 --spool d --output a --output -", {"port": "1", "spool": "d", "outputs": (file("a"), STANDARD)}),
    ("-p 1 --metrics 9100", {"port": "1", "metrics": ("", 9100)}),
    ("-p 1 --metrics 0", {"port": "1", "metrics": ("", 0)}),
    ("-p 1 --metrics 127.0.0.1:9100", {"port": "1", "metrics": ("127.0.0.1", 9100)}),
    ("-p 1 --metrics [::1]:9100", {"port": "1", "metrics": ("::1", 9100)}),
    ("-p 1 --log-format json", {"port": "1", "log_format": "json"}),
    ("-p 1 --log-format json --log-format text", {"port": "1"}),
    ("-p 1 --config /dev/null", {"port": "1"}),
    ("-p 1 --json", {"port": "1", "json": True}),
    ("-p 1 -T", {"port": "1", "timestamps": True}),
    ("-p 1 --download-dir in", {"port": "1", "download_dir": "in"}),
    ("-p 1 --download-dir in --accept-loss", {"port": "1", "download_dir": "in", "accept_loss": True}),
    ("-p 1 --plain-terminal", {"port": "1", "plain_terminal": True}),
    ("-p 1 -w 5", {"port": "1", "wait": 5.0}),
    ("-p 1 -w500ms", {"port": "1", "wait": 0.5}),
    ("-p 1 --wait=2m", {"port": "1", "wait": 120.0}),
    ("-p 1 -q 0", {"port": "1", "linger": 0.0}),
    ("-p 1 --linger 1h", {"port": "1", "linger": 3600.0}),
    ("-p 1 --max-message 64k", {"port": "1", "max_message": 65536}),
    ("-p 1 --spool d --max-spool 8G", {"port": "1", "spool": "d", "max_spool": 8 * 1024**3}),
    ("-p 1 --spool d --accept-loss", {"port": "1", "spool": "d", "accept_loss": True}),
    ("-p 1 -v --quiet", {"port": "1", "verbose": True, "quiet": True}),
    ("-kvJ -p 1", {"port": "1", "keep_open": True, "verbose": True, "json": True}),
    ("-kvw5 -p 1", {"port": "1", "keep_open": True, "verbose": True, "wait": 5.0}),
    ("-kvp 1", {"port": "1", "keep_open": True, "verbose": True}),
]

# Each with words that the error must contain: what is wrong, or the right form.
BAD: list[tuple[str, str]] = [
    ("", "--peer HOST:PORT"),
    ("-k", "-p PORT"),
    ("9000", "mysocket -p 9000"),
    ("hub:9000", "mysocket --peer hub:9000"),
    ("hub 9000", "mysocket --peer hub:9000 --raw"),
    ("hub 9000", "mysocket LISTENER_PORT hub 9000"),
    ("::1 9000", "--peer [::1]:9000"),
    ("9000 hub 9001 9002", "4 arguments are too many"),
    ("9000 hub 9001 -p 1", "given twice"),
    ("9000 hub 9001 --peer hub:1", "given twice"),
    ("x hub 9001", "port 'x' is not a number"),
    ("9000 hub x", "port 'x' is not a number"),
    ("9000 hub 0", "out of range: 1 to 65535"),
    ("9000 hub 65536", "out of range: 1 to 65535"),
    ("9000 hub:1 9001", "not an IPv6 address"),
    ("9000 [hub] 9001", "not an IPv6 address"),
    ("-p 65536", "out of range: 0 to 65535"),
    (f"-p {'9' * 5000}", "out of range"),
    ("-p -1", "--port needs a value"),
    ("-p x", "port 'x' is not a number"),
    ("-p ９", "is not a number"),
    ("-p localhost:9000", "--bind ADDR"),
    ("-p 0.0.0.0:9000", "--bind ADDR"),
    ("-p unix:", "--bind ADDR"),
    ("--port=", "port '' is not a number"),
    ("--peer hub", "is not HOST:PORT"),
    ("--peer hub:", "port '' is not a number"),
    ("--peer :9001", "names no host"),
    ("--peer []:9001", "names no host"),
    ("--peer ::1:9001", "in brackets"),
    ("--peer [::1]", "in brackets"),
    ("--peer [hub]:9001", "not an IPv6 address"),
    ("--peer hub:http", "port 'http' is not a number"),
    ("--peer hub:0", "out of range: 1 to 65535"),
    ("--peer http://hub:80", "is not HOST:PORT"),
    ("--udp -p unix:/run/it", "none for UDP"),
    ("--udp -p tcp:9000", "none for UDP"),
    ("--udp --peer tcp:hub:9000", "none for UDP"),
    ("--bind 127.0.0.1 -p tcp:9000", "--bind does not reach"),
    ("--bind 127.0.0.1 --peer tcp:hub:9000", "--bind does not reach"),
    ("-p 1 --bind hub", "--bind: 'hub' is not an IP address"),
    ("-p 1 --allow hub", "--allow: 'hub' is not a range"),
    ("-p 1 --allow 10.0.0.0/33", "is not a range"),
    ("-p 1 --send-only --recv-only", "exclude each other"),
    ("-p 1 --stream --whole", "exclude each other"),
    ("-p 1 --stream -0", "exclude each other"),
    ("-p 1 --whole --null", "exclude each other"),
    ("-p 1 -JT", "exclude each other"),
    ("-p 9100 --metrics 9100", "-p and --metrics name the same port, 9100"),
    ("-p 1 --bind 127.0.0.1 --input tcp:5140", "--bind does not reach into an endpoint string; 'tcp:5140'"),
    ("-p 1 --send-only --output x", "exclude each other"),
    ("-p 1 --recv-only --input x", "--recv-only and --input exclude each other: nothing is sent that could be read there"),
    ("-p 1 --send-only --output -", "--send-only and --output exclude each other: nothing is received"),
    ("-p 1 --input", "--input needs a value: --input SPEC"),
    ("-p 1 --input=", "--input: '' is not a file name"),
    ("-p 1 --input follow:", "--input: nothing stands behind 'follow:'; a file of that name is written ./follow:"),
    ("-p 1 --input udp:", "--input: nothing stands behind 'udp:'; a file"),
    ("-p 1 --input udp:x", "--input: port 'x' is not a number from 0 to 65535"),
    (
        "-p 1 --input hub:514",
        "--input: 'hub:514': an input listens on this machine: write tcp:514 or udp:514, or ./hub:514 for a file",
    ),
    ("-p 1 --input UDP:514", "write tcp:514 or udp:514"),
    ("-p 1 --input tcp:hub:514", "--input: 'tcp:hub:514': write tcp:PORT; the address to listen on is tcp:PORT:interface=ADDR"),
    ("-p 1 --input udp:65536", "--input: port 65536 is out of range: 0 to 65535"),
    ("-p 1 --input udp:0.0.0.0:5140", "--input: 'udp:0.0.0.0:5140': write udp:PORT; the address"),
    ("-p 1 --input a --input b --input a", "--input a is given twice"),
    ("-p 1 --input - --input -", "--input - is given twice"),
    ("-p 1 --raw --input a", "--input a and --raw exclude each other: inputs other than stdin need the MySocket protocol"),
    ("-p 1 --udp --input - --input udp:1", "--input udp:1 and --udp exclude each other"),
    ("-p 1 --raw --udp --input a", "--input a and --raw exclude each other"),
    ("-p 1 --whole --input follow:a", "--whole is for one input with an end, stdin or a file; of follow:a"),
    ("-p 1 --stream --input udp:1", "--stream is for one input with an end"),
    ("-p 1 --stream --input tcp:1", "--stream is for one input with an end"),
    ("-p 1 --whole --input a --input -", "of a, - each line is a message"),
    ("-p 1 --output=", "--output: '' is not a file name"),
    ("-p 1 --output udp:hub", "--output: 'hub' is not HOST:PORT"),
    ("-p 1 --output udp:hub:0", "out of range: 1 to 65535"),
    ("-p 1 --output udp::514", "names no host"),
    ("-p 1 --output hub:514", "--output: 'hub:514': write tcp:hub:514 to connect there, or ./hub:514 for a file of that name"),
    ("-p 1 --output tcp:514", r"--output: 'tcp:514': write tcp:HOST:PORT (an IPv6 address with \: for each colon), or ./tcp:514"),
    ("-p 1 --output tcp:hub", "--output: 'tcp:hub': write tcp:HOST:PORT"),
    ("-p 1 --output tcp:[::1]:514", "--output: 'tcp:[::1]:514': write tcp:HOST:PORT"),
    ("-p 1 --output tcp:hub:http", "--output: 'tcp:hub:http': write tcp:HOST:PORT"),
    ("-p 1 --output [::1]:514", r"write tcp:\:\:1:514 to connect there"),
    ("-p 1 --output a --output a", "--output a is given twice"),
    ("-p 1 --spool d --output a --output b", "--spool keeps the length of one output file, and 2 are given: a, b; run"),
    ("-p 1 --metrics x", "--metrics: port 'x' is not a number"),
    ("-p 1 --metrics 65536", "out of range: 0 to 65535"),
    ("-p 1 --metrics hub:9100", "--metrics: 'hub' is not an IP address"),
    ("-p 1 --metrics []:9100", "--metrics: '' is not an IP address"),
    ("-p 1 --log-format xml", "--log-format: 'xml' is unknown; write text or json"),
    ("-p 1 --config /nonexistent/app.toml", "--config /nonexistent/app.toml: it cannot be read: No such file or directory"),
    ("-p 1 --config /dev/null --config /dev/null", "--config is given twice"),
    ("-p 1 --download-dir=", "is not a file name"),
    ("-p 1 --send-only --download-dir in", "exclude each other: no files are received"),
    ("-p 1 --raw --download-dir in", "files need the MySocket protocol"),
    ("-p 1 --udp --download-dir in", "files need the MySocket protocol"),
    ("-p 1 --accept-loss", "there is none without --spool DIR"),
    ("-p 1 -w 0", "--wait: '0' is not a length of time above 0"),
    ("-p 1 -w soon", "5s, 2m"),
    ("-p 1 -w=5", "'=5'"),
    ("-p 1 -w", "--wait needs a value: --wait SECS"),
    ("-p 1 --wait --json", "--wait needs a value"),
    ("-p 1 --linger x", "--linger: 'x' is not a length of time;"),
    ("-p 1 --max-message 0", "--max-message: '0' is not a size"),
    ("-p 1 --json=yes", "--json takes no value"),
    ("-p 1 --jsn", "did you mean --json?"),
    ("-p 1 --js", "did you mean --json?"),
    ("-p 1 --use-ud", "did you mean --use-udp?"),
    ("-p 1 --verb", "did you mean --verbose?"),
    ("-p 1 --xyzzy", "unknown option --xyzzy; mysocket --help"),
    ("-p 1 -kz", "unknown option -z"),
    ("-l 9000", "-p PORT"),
]


@pytest.mark.parametrize(("line", "near"), [("spol a", "spool"), ("sned hello to them", "send"), ("stauts --watch", "status")])
def test_a_verb_that_is_none_may_be_another(line: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command_line(line.split())
    assert capsys.readouterr().err.endswith(f"; did you mean mysocket {near}?\n")


@pytest.mark.parametrize(
    ("text", "port"),
    [("9000", 9000), ("tcp:9000", 9000), ("tcp6:port=9000:interface=\\:\\:1", 9000), ("unix:/run/it", "unix:/run/it")],
)
def test_a_service_is_known_by_the_number_of_its_port(text: str, port: int | str) -> None:
    assert parse_control_port(text) == port


def from_twistd(line: str) -> Settings:
    options = tap.Options()
    options.parseOptions(line.split())
    return options.settings


@pytest.mark.parametrize(("line", "changes"), GOOD)
def test_both_front_ends_give_these_settings(line: str, changes: dict[str, object]) -> None:
    expected = dataclasses.replace(DEFAULTS, **changes)  # type: ignore[arg-type]
    assert parse_command_line(line.split()) == expected
    assert from_twistd(line) == expected


@pytest.mark.parametrize(("line", "words"), BAD)
def test_both_front_ends_refuse_in_the_same_words(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_command_line(line.split())
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (2, "")
    assert err.startswith("mysocket: ")
    assert words in err
    with pytest.raises(usage.UsageError) as refused:
        from_twistd(line)
    assert err == f"mysocket: {refused.value}\n"


def test_every_option_is_tried_above() -> None:
    tried = {word[2:].partition("=")[0] for line, _ in GOOD for word in spell_out(line.split())[0]}
    assert tried == {option.long for option in OPTIONS} - {"help", "version"}


def test_every_settings_field_has_its_row() -> None:
    assert {option.field for option in OPTIONS if option.field} == {field.name for field in dataclasses.fields(Settings)}


def test_no_name_is_used_twice() -> None:
    names = [name for option in OPTIONS for name in (option.long, *option.aliases, *([option.short] if option.short else []))]
    assert len(names) == len(set(names))


def test_rows_with_a_value_name_it() -> None:
    assert all((option.metavar is None) == (option.kind == FLAG) for option in OPTIONS)


@pytest.mark.parametrize("line", ["-h", "--help", "-kh", "-p 1 --help --no-such-option"])
def test_help_names_every_option_and_the_right_forms(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_command_line(line.split())
    out, err = capsys.readouterr()
    assert (left.value.code or 0, err) == (0, "")
    for option in OPTIONS:
        assert f"--{option.long}" in out
    assert "--use-udp" in out
    assert "LISTENER_PORT RECEIVER_HOST RECEIVER_PORT" in out


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_a_terminal_of_80_columns(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse_verb(VERBS[verb], ["--help"]) if verb else parse_command_line(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.count("[") == line.count("]") for line in lines), "an option and its value stand together"


def test_help_of_twistd_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        from_twistd("--help")
    out = capsys.readouterr().out
    assert (left.value.code or 0) == 0
    for option in OPTIONS:
        assert f"--{option.long}" in out
        assert option.help.split()[0] in out


def test_version_is_mysockets_in_both(capsys: pytest.CaptureFixture[str]) -> None:
    for call in (lambda: parse_command_line(["--version"]), lambda: from_twistd("--version")):
        with pytest.raises(SystemExit) as left:
            call()
        assert (left.value.code or 0) == 0
        assert capsys.readouterr().out == f"mysocket {__version__}\n"


def test_parsing_again_does_not_remember() -> None:
    assert from_twistd("-p 1 --allow 10.0.0.0/8").allow
    assert from_twistd("-p 1").allow == ()


def test_the_table_needs_no_twisted() -> None:
    code = "import sys, mysocket.commandline as o; o.parse_command_line(['-p', '1']); print('twisted' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_settings_take_their_defaults_from_the_table() -> None:
    assert settings({"port": "9000"}, ()) == dataclasses.replace(DEFAULTS, port="9000")
    with pytest.raises(UsageError):
        settings({}, ())


@given(st.integers(1, 10**12), st.sampled_from(["", "k", "K", "m", "M", "g", "G"]))
def test_sizes_are_binary_multiples(number: int, unit: str) -> None:
    assert parse_size(f"{number}{unit}") == number * {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}[unit.lower()]


@given(st.integers(1, 10**8), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("", 1)]))
def test_durations_are_seconds(number: int, unit: tuple[str, float]) -> None:
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1]
    assert parse_duration(f"{number}.5{unit[0]}") == (number + 0.5) * unit[1]


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 1
    except ValueError as error:
        assert "64k" in str(error)


@given(st.text() | st.from_regex(r"[0-9.]{1,12}(ms|s|m|h|d)?", fullmatch=True), st.booleans())
def test_any_text_is_a_duration_or_a_value_error(text: str, zero: bool) -> None:
    try:
        seconds = parse_duration(text, zero=zero)
    except ValueError as error:
        assert "500ms" in str(error)
    else:
        assert 0 < seconds < float("inf") or (seconds == 0 and zero)


@pytest.mark.parametrize("text", ["", "1.5M", "1kk", "-1", "1 k", "k", "1T", "1e3", "٣", "1M\n", "0k"])
def test_these_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "-1", "inf", "nan", "1d", "1 s", ".", ".5", "5.", "1e3", "0", "0.0ms", "٣", "5s\n"])
def test_these_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time"):
        parse_duration(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_host_and_port_come_apart_again(address: object, port: int) -> None:
    host = str(address)
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    assert split_host_port(text) == (host, port)
    assert settings({"peer": text}, ()).peer == text
    assert settings({}, ("1", host, str(port))).peer == text


@given(st.text(max_size=40))
def test_any_peer_is_understood_or_a_usage_error(text: str) -> None:
    try:
        peer = settings({"peer": text}, ()).peer
    except UsageError:
        return
    assert peer is not None
    if not is_endpoint(peer):
        host, port = split_host_port(peer)
        assert host.strip() == host != ""
        assert 1 <= port <= 65535


@given(st.text(max_size=40))
def test_any_port_is_understood_or_a_usage_error(text: str) -> None:
    try:
        port = settings({"port": text}, ()).port
    except UsageError:
        return
    assert port is not None
    assert port.isdigit() or is_endpoint(port, listening=True)


@given(
    st.lists(
        st.sampled_from(["-p", "1", "-kv", "--allow", "10.0.0.0/8", "-w5", "--", "-", "x", "--json", "--help", "h", "--peer=h:1"])
    )
)
def test_no_command_line_separates_the_front_ends(words: list[str]) -> None:
    """Whatever the words, both give equal Settings or both refuse."""
    try:
        spelled, _ = spell_out(words)
        if "--help" in spelled:
            return
        expected: Settings | str = parse_command_line(words)
    except UsageError as error:
        expected = str(error)
    except SystemExit:
        expected = "refused"
    options = tap.Options()
    try:
        options.parseOptions(words)
    except usage.UsageError as error:
        assert expected in ("refused", str(error))
    else:
        assert options.settings == expected
