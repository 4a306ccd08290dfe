"""inversion.toml: what is read, and the sentence for each fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from inversion import config_values as values
from inversion.config import (
    Channel,
    Config,
    Correlate,
    Crash,
    HelloRule,
    Mode,
    Processes,
    Retention,
    Retry,
    Sandbox,
    Walls,
)
from inversion.config_file import ConfigError, load


def read(folder: Path, text: str) -> Config:
    (folder / "inversion.toml").write_text(text)
    return load(folder)


def faults(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value)


def function_fault(folder: Path, line: str) -> str:
    """The one fault of a function whose table has this line."""
    text = faults(folder, f'[functions.cart]\ncommand = "cart"\n{line}\n')
    assert "\n" not in text
    assert text.startswith(f"{folder}/inversion.toml: ")
    return text


def test_one_command_is_enough(tmp_path: Path) -> None:
    config = read(tmp_path, '[functions.cart]\ncommand = ["python3", "cart.py"]\n')
    cart = config.functions["cart"]
    assert cart.name == "cart"
    assert cart.command == ("python3", "cart.py")
    assert cart.folder == config.folder == tmp_path
    assert (cart.mode, cart.timeout_s, cart.processes) == (Mode.LINES, 30.0, Processes(0, 2))
    assert config.limits.body_bytes == 1 << 20


def test_every_key_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        [functions.cart]
        command = "python3 'my cart.py' --x"
        mode = "lines"
        timeout = "1.5s"
        processes = { min = 1, max = 4 }
        idle = "5m"
        grace = "500ms"
        state = false
        hello = "required"
        channel = "fd3"
        correlate = "order"
        strict = true
        rerun = 0
        sandbox = "none"
        retry = { attempts = 3, max_age = "1h", pause = "50ms", longest_pause = "1m" }
        [functions.cart.env]
        LOG = "info"
        [functions.sum]
        command = ["sha256sum"]
        mode = "exec"
        output = "text/plain; charset=utf-8"
        exit = { 1 = 422, 2 = 404 }
        processes.max = 16
        sandbox = "basic"
        limits = { memory = "1GiB", files = 2000, processes = 99 }
        [limits]
        body = "64KiB"
        state = "10MB"
        response = "2MiB"
        effects = "1MiB"
        queue = { entity = 10, function = 20, node = 30 }
        connections = 100
        cache = "1GiB"
        drain = "1m"
        [http]
        read_state = true
        allow = ["api.example.com", "*.internal.example:8443", "10.0.0.0/8"]
        timeout = "5s"
        retry = { attempts = 20, pause = "2s" }
        [retention]
        keys = "12h"
        outputs = "1h"
        dead_letters = "30d"
        """,
    )
    cart, checksum = config.functions["cart"], config.functions["sum"]
    assert cart.command == ("python3", "my cart.py", "--x")
    assert (cart.timeout_s, cart.idle_s, cart.grace_s) == (1.5, 300.0, 0.5)
    assert cart.processes == Processes(1, 4)
    assert (cart.state, cart.strict, cart.rerun) == (False, True, 0)
    assert (cart.hello, cart.channel, cart.correlate) == (HelloRule.REQUIRED, Channel.FD3, Correlate.ORDER)
    assert cart.sandbox is Sandbox.NONE
    assert cart.retry == Retry(3, 3_600.0, 0.05, 60.0)
    assert cart.env == {"LOG": "info"}
    assert (checksum.mode, checksum.output) == (Mode.EXEC, "text/plain; charset=utf-8")
    assert checksum.exit == {1: 422, 2: 404}
    assert checksum.processes == Processes(0, 16)
    assert (checksum.sandbox, checksum.limits) == (Sandbox.BASIC, Walls(1 << 30, 2_000, 99))
    limits = config.limits
    assert (limits.body_bytes, limits.state_bytes, limits.response_bytes) == (65_536, 10_000_000, 2 << 20)
    assert (limits.queue.entity, limits.queue.function, limits.queue.node) == (10, 20, 30)
    assert (limits.connections, limits.cache_bytes, limits.drain_s) == (100, 1 << 30, 60.0)
    assert config.http.read_state is True
    assert [entry.text for entry in config.http.allow.entries] == [
        "api.example.com",
        "*.internal.example:8443",
        "10.0.0.0/8",
    ]
    assert config.http.timeout_s == 5.0
    assert (config.http.retry.attempts, config.http.retry.pause_s) == (20, 2.0)
    assert config.retention == Retention(43_200.0, 3_600.0, 30 * 86_400.0)


def test_nothing_is_allowed_to_go_out_by_itself() -> None:
    assert Config().http.allow.entries == ()


@pytest.mark.parametrize(
    ("allow", "sentence"),
    [
        ('"api.example.com"', 'http.allow must be a list such as ["api.example.com", "10.0.0.0/8"]'),
        ('["10.0.0.1/8"]', 'http.allow has "10.0.0.1/8", which is no address and no range'),
        ('["https://"]', 'http.allow has "https://", which is no host'),
        ('["0.0.0.0/8"]', "which can never be allowed"),
    ],
)
def test_a_bad_allow_list_is_a_sentence(tmp_path: Path, allow: str, sentence: str) -> None:
    assert sentence in faults(tmp_path, f"[functions.a]\ncommand = 'a'\n[http]\nallow = {allow}\n")


def test_the_pauses_between_outgoing_requests_fit_together(tmp_path: Path) -> None:
    text = "[functions.a]\ncommand = 'a'\n[http]\nretry = { pause = '1h' }\n"
    assert "http.retry: pause is longer than longest_pause" in faults(tmp_path, text)


def test_the_file_itself_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[functions.a]\ncommand = "a"\n')
    assert load(tmp_path / "other.toml").folder == tmp_path


def test_a_missing_file_is_a_sentence_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file.*inversion dev ./FILE"):
        load(tmp_path)


def test_broken_toml_names_line_and_column(tmp_path: Path) -> None:
    assert "not valid TOML" in (text := faults(tmp_path, '[functions.a]\ncommand = "a\n'))
    assert "line 2" in text


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inversion.toml").write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        load(tmp_path)


def test_a_file_without_functions_is_refused(tmp_path: Path) -> None:
    assert "it lists no function" in faults(tmp_path, "")


def test_an_unknown_key_names_the_nearest_right_one(tmp_path: Path) -> None:
    assert "unknown key functions.cart.timeot; did you mean timeout?" in function_fault(
        tmp_path, 'timeot = "3s"'
    )
    assert "unknown key functions.cart.processes.mx" in function_fault(tmp_path, "processes = { mx = 3 }")
    limits = faults(tmp_path, '[functions.a]\ncommand = "a"\n[limits]\nbdy = "1MiB"\n')
    assert "unknown key limits.bdy; did you mean body?" in limits
    top = faults(tmp_path, '[functions.a]\ncommand = "a"\n[limit]\n')
    assert "unknown key limit; did you mean limits?" in top


def test_an_unknown_key_like_no_other_lists_what_there_is(tmp_path: Path) -> None:
    assert "known here: arguments, channel, command, correlate" in function_fault(tmp_path, "zzzzzz = 1")


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    text = faults(
        tmp_path,
        '[functions.a]\ncomand = "a"\ntimeout = 3\n'
        '[functions.b]\ncommand = "b"\nstate = "no"\n[limits]\nbody = 1\n',
    )
    assert len(text.splitlines()) == 5
    assert "functions.a.command is missing" in text
    assert "unknown key functions.a.comand; did you mean command?" in text


@pytest.mark.parametrize("name", ["Cart", "1st", "a b", "", "-x", "a" * 64, "ä"])
def test_a_bad_function_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "a function is named by" in faults(tmp_path, f'[functions."{name}"]\ncommand = "a"\n')


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("timeout = 30", 'timeout must be a duration with a unit, such as "500ms"'),
        ('timeout = "30"', "must be a duration with a unit"),
        ('timeout = "0s"', "must be more than zero"),
        ('timeout = "-1s"', "must be a duration"),
        ('timeout = "1y"', "must be a duration"),
        ('grace = ""', "must be a duration"),
        ('state = "false"', 'state must be true or false, not "false"'),
        ("state = 0", "must be true or false, not 0"),
        ("strict = 1", "must be true or false"),
        ("rerun = 11", "must be a whole number from 0 to 10, not 11"),
        ("rerun = true", "must be a whole number"),
        ("processes = 3", "processes must be a table, not 3"),
        ("processes = { max = 0 }", "processes.max must be a whole number from 1"),
        ("processes = { min = -1 }", "processes.min must be a whole number from 0"),
        ("processes = { min = 3, max = 2 }", "processes: min = 3 is more than max = 2"),
        ("processes = { min = 3 }", "processes: min = 3 is more than max = 2"),
        ('hello = "maybe"', 'hello must be "auto" or "required" or "none", not "maybe"'),
        ('channel = "fd4"', 'did you mean "fd3"?'),
        ('mode = "line"', 'did you mean "lines"?'),
        ("mode = 3", 'mode must be "lines" or "exec" or "cgi", not 3'),
        ('env = "A=1"', "env must be a table of strings"),
        ("env = { A = 3 }", 'env has A = 3, which must be a string: write "3"'),
        ('env = { "A B" = "3" }', "not the name of an environment variable"),
        ('env = { INVERSION_X = "3" }', "set by inversion itself"),
        ('env = { A = "\\u0000" }', "must be a string"),
        ("exit = { 1 = 422 }", 'exit belongs to mode = "exec" and this is "lines"'),
        ('output = "json"', 'output belongs to mode = "exec"'),
        ('mode = "exec"\nhello = "none"', 'hello belongs to mode = "lines" and this is "exec"'),
        ('mode = "exec"\nprocesses = { min = 1 }', 'processes.min belongs to mode = "lines"'),
        ('retry = { pause = "1h" }', "retry: pause is longer than longest_pause"),
        ('sandbox = "none"\nlimits = { files = 99 }', 'limits belongs to sandbox = "basic"'),
        ('mode = "exec"\noutput = "plain"', 'must be "json" or a media type'),
        ('mode = "exec"\nexit = { 1 = 500 }', "500 is not a status from 400 to 499"),
        ('mode = "exec"\nexit = { 0 = 422 }', "0 is not an exit code from 1 to 255"),
        ('mode = "exec"\nexit = { x = 422 }', "x is not an exit code"),
        ('mode = "exec"\nexit = 422', "must map exit codes to statuses"),
        ('mode = "cgi"\nstate = true', 'state does not go with mode = "cgi"'),
        ('mode = "cgi"\nretry = { attempts = 1 }', 'retry does not go with mode = "cgi"'),
        ('mode = "cgi"\ncron = { a = "* * * * *" }', 'cron does not go with mode = "cgi"'),
        ('mode = "cgi"\noutput = "json"', 'output belongs to mode = "exec" and this is "cgi"'),
        ('mode = "cgi"\nidle = "1m"', 'idle belongs to mode = "lines" and this is "cgi"'),
        ('mode = "cgi"\nprocesses = { min = 1 }', '"cgi" starts a process for each call'),
        ('arguments = "query"', 'arguments belongs to mode = "exec"'),
        ('mode = "exec"\narguments = "body"', 'arguments must be "none" or "query", not "body"'),
        ('mode = "exec"\ninput = "png"', 'input must be "json" or a media type'),
        ('mode = "exec"\ncrash = "signal"', 'crash belongs to mode = "cgi" and this is "exec"'),
        ('mode = "cgi"\ncrash = "never"', 'crash must be "status" or "signal", not "never"'),
    ],
)
def test_a_bad_value_is_a_sentence(tmp_path: Path, line: str, sentence: str) -> None:
    assert sentence in function_fault(tmp_path, line)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ('""', "is empty"),
        ("[]", "is empty"),
        ('[""]', "is empty"),
        ("3", 'must be a list such as ["python3", "cart.py"], or a string'),
        ('["head", 3]', 'must hold strings, not 3: write "3"'),
        ('"a \'b"', "cannot be split as a shell would"),
        ('["a\\u0000b"]', "NUL"),
    ],
)
def test_a_bad_command_is_a_sentence(tmp_path: Path, command: str, sentence: str) -> None:
    assert sentence in faults(tmp_path, f"[functions.a]\ncommand = {command}\n")


def test_a_cgi_program_keeps_no_state(tmp_path: Path) -> None:
    (tmp_path / "inversion.toml").write_text('[functions.a]\ncommand = "./a.cgi"\nmode = "cgi"\n')
    function = load(tmp_path).functions["a"]
    assert (function.mode, function.state, function.crash) == (Mode.CGI, False, Crash.STATUS)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('sandbox = "strict"', 'sandbox = "strict"'),
        ('[retention]\ntombstones = "7d"', "retention.tombstones"),
    ],
)
def test_what_a_later_release_brings_is_refused_and_never_ignored(
    tmp_path: Path, line: str, named: str
) -> None:
    text = function_fault(tmp_path, line)
    assert named in text
    assert "comes with a later release" in text


@pytest.mark.parametrize(
    "table", ["functions = 3", "[functions]\na = 3", "limits = 1\n[functions.a]\ncommand='a'"]
)
def test_a_value_in_place_of_a_table_is_a_sentence(tmp_path: Path, table: str) -> None:
    faults(tmp_path, table)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30.0), ("5m", 300.0), ("24h", 86_400.0), ("7d", 604_800.0)]
)
def test_durations_carry_units(text: str, seconds: float) -> None:
    assert values.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("1B", 1), ("64KiB", 65_536), ("1MiB", 1 << 20), ("10MB", 10_000_000), ("0.5KiB", 512)],
)
def test_sizes_carry_units(text: str, count: int) -> None:
    assert values.size_bytes(text) == count


@pytest.mark.parametrize("value", ["1", "1mib", "MiB", 3, True, None, [], "1 000B", "0B", "65MiB"])
def test_a_size_that_will_not_do_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        values.size(1, 64 << 20)(value)
