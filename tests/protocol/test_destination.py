"""Where an outgoing request may go: URLs, the allow-list, addresses."""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.protocol.destination import AllowList, Refused, kind_of, read_entry, read_url

PUBLIC = "93.184.216.34"
METADATA = "169.254.169.254"


def allow(*entries: str) -> AllowList:
    return AllowList(tuple(read_entry(entry) for entry in entries))


def refusal(listed: AllowList, url: str, *found: str) -> str:
    with pytest.raises(Refused) as caught:
        listed.choose(read_url(url), found)
    return str(caught.value)


def chosen(listed: AllowList, url: str, *found: str) -> list[str]:
    return [str(address) for address in listed.choose(read_url(url), found)]


# --- URLs -----------------------------------------------------------------------------------------------


def test_a_url_is_taken_apart() -> None:
    url = read_url("https://API.Example.com:8443/a/b?c=%20d#fragment")
    assert (url.secure, url.host, url.port, url.target) == (True, "api.example.com", 8443, "/a/b?c=%20d")
    assert url.authority == "api.example.com:8443"
    assert url.shown == "https://api.example.com:8443"
    bare = read_url("http://example.com.?q")
    assert (bare.host, bare.port, bare.target, bare.authority) == ("example.com", 80, "/?q", "example.com")
    six = read_url("http://[FD00:0::1]:81")
    assert (six.host, six.address, six.authority) == ("fd00::1", IPv6Address("fd00::1"), "[fd00::1]:81")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "ftp://example.com/",
        "//example.com/",
        "https://",
        "https:///path",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://allowed.example\\@evil.example/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: evil",
        "https://example.com/\x00",
        "https://bücher.example/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:99999999999999999999/",
        "https://example.com:80:80/",
        "https://-example.com/",
        "https://example..com/",
        "https://[fe80::1%25eth0]/",
        "https://[127.0.0.1]/",
        "https://[::1/",
        "https://example.com%2f/",
        "https://" + "a" * 64 + ".com/",
        "https://example.com/" + "a" * 8_000,
        # What inet_aton and browsers take for 127.0.0.1.
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://127.0.0.1.1/",
        "http://127.0.0.0x1/",
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|must|holds) "):
        read_url(text)


@given(st.text(st.characters(min_codepoint=1, max_codepoint=0x17F), max_size=40))
def test_whatever_stands_for_a_url_is_read_or_refused(text: str) -> None:
    for start in ("", "http://", "https://[", "http://1"):
        try:
            url = read_url(start + text)
        except ValueError:
            continue
        assert read_url(f"{url.shown}{url.target}") == url
        assert not set(f"{url.authority}{url.target}") & set(" \r\n\t\0@\\")


# --- names ----------------------------------------------------------------------------------------------


def test_without_an_allow_list_nothing_is_allowed_and_the_error_says_what_to_write() -> None:
    text = refusal(AllowList(), "https://api.example.com/secret?token=x", PUBLIC)
    assert 'allow = ["api.example.com"]' in text
    assert "secret" not in text
    assert "no outgoing request is" in refusal(AllowList(), f"https://{PUBLIC}/")


def test_a_name_means_https_on_its_own_port_unless_the_entry_says_otherwise() -> None:
    listed = allow("api.example.com", "http://plain.example.com", "other.example.com:8443")
    assert chosen(listed, "https://api.example.com/x", PUBLIC) == [PUBLIC]
    assert chosen(listed, "https://API.example.com.:443/", PUBLIC) == [PUBLIC]
    assert chosen(listed, "http://plain.example.com/", PUBLIC) == [PUBLIC]
    assert chosen(listed, "https://other.example.com:8443/", PUBLIC) == [PUBLIC]
    for url in (
        "http://api.example.com/",
        "https://api.example.com:444/",
        "https://plain.example.com/",
        "http://plain.example.com:81/",
        "https://other.example.com/",
        "https://www.api.example.com/",
        "https://example.com/",
        "https://api.example.com.evil.example/",
    ):
        assert "is not allowed: add" in refusal(listed, url, PUBLIC)


def test_a_star_means_all_below_and_not_the_name_itself() -> None:
    listed = allow("*.internal.example:8443")
    assert chosen(listed, "https://a.b.internal.example:8443/", PUBLIC) == [PUBLIC]
    refusal(listed, "https://internal.example:8443/", PUBLIC)
    refusal(listed, "https://evilinternal.example:8443/", PUBLIC)
    refusal(listed, "https://a.internal.example/", PUBLIC)


@pytest.mark.parametrize(
    "entry",
    [
        *("", "*", "https://", "a b", "a/b", "*.*.com", "a.*.com", "x:0", "x:70000", "10.0.0.1/8", "127.1"),
        *("[::1", "ftp://a", "0.0.0.0", "224.0.0.1", "::ffff:10.0.0.0/104", "2002:7f00:1::/48", "user@host"),
    ],
)
def test_what_is_no_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|can) "):
        read_entry(entry)


# --- addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.0.3", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("192.168.1.1", "private"),
        ("fd12::1", "private"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("100.64.0.1", "shared"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("255.255.255.255", "reserved"),
        ("::ffff:127.0.0.1", "v4-mapped"),
        (f"::ffff:{PUBLIC}", "v4-mapped"),
        ("64:ff9b::7f00:1", "NAT64"),
        (f"64:ff9b::{PUBLIC}", "NAT64"),
        ("2002:7f00:1::", "6to4"),
        ("2001:0:1234::", "Teredo"),
        ("::7f00:1", "reserved"),
        (METADATA, "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("192.0.2.1", "documentation"),
        ("4000::1", "reserved"),
    ],
)
def test_a_name_that_stands_for_an_address_that_is_not_public_is_refused(found: str, kind: str) -> None:
    text = refusal(allow("api.example.com"), "https://api.example.com/", found)
    assert f"{ipaddress.ip_address(found)} is a" in text
    assert f"{kind} address" in text


def test_a_range_opens_its_addresses_to_names_on_the_list_and_to_itself() -> None:
    listed = allow("api.example.com", "10.0.0.0/8")
    assert chosen(listed, "https://api.example.com/", "10.1.2.3") == ["10.1.2.3"]
    assert chosen(listed, "http://10.1.2.3:8080/") == ["10.1.2.3"]
    refusal(listed, "https://api.example.com/", "192.168.0.1")
    refusal(listed, "https://other.example.com/", "10.1.2.3")
    refusal(listed, "http://11.0.0.1/")
    narrow = allow("api.example.com", "[fd00::/16]:443", "http://127.0.0.1")
    assert chosen(narrow, "https://api.example.com/", "fd00::1") == ["fd00::1"]
    assert chosen(narrow, "https://[fd00::1]/") == ["fd00::1"]
    assert chosen(narrow, "http://127.0.0.1/") == ["127.0.0.1"]
    refusal(narrow, "https://[fd00::1]:444/")
    refusal(narrow, "http://127.0.0.1:81/")
    refusal(narrow, "https://api.example.com/", "127.0.0.1")


def test_a_literal_address_needs_a_range_though_it_is_public() -> None:
    assert f'add "{PUBLIC}:443"' in refusal(allow("api.example.com"), f"https://{PUBLIC}/")
    assert chosen(allow(PUBLIC), f"https://{PUBLIC}/") == [PUBLIC]


def test_of_several_addresses_only_those_that_are_allowed_are_chosen() -> None:
    listed = allow("api.example.com")
    found = ("127.0.0.1", PUBLIC, "10.0.0.1", "2606:4700::1111", PUBLIC)
    assert chosen(listed, "https://api.example.com/", *found) == [PUBLIC, "2606:4700::1111"]
    assert "has no address" in refusal(listed, "https://api.example.com/")


def test_a_metadata_service_is_opened_by_its_own_address_and_by_no_wider_range() -> None:
    wide = allow("api.example.com", "0.0.0.0/0", "169.254.0.0/16", "::/0")
    assert "a metadata address" in refusal(wide, f"http://{METADATA}/latest/meta-data/")
    assert "a metadata address" in refusal(wide, "https://api.example.com/", METADATA)
    assert chosen(wide, "https://api.example.com/", "169.254.1.1") == ["169.254.1.1"]
    assert chosen(allow(METADATA), f"http://{METADATA}/") == [METADATA]


def test_what_is_within_nat64_is_looked_at_too() -> None:
    listed = allow("api.example.com", "64:ff9b::/96")
    assert chosen(listed, "https://api.example.com/", f"64:ff9b::{PUBLIC}") == ["64:ff9b::5db8:d822"]
    assert "127.0.0.1 is a loopback" in refusal(listed, "https://api.example.com/", "64:ff9b::7f00:1")
    assert "metadata" in refusal(listed, "https://api.example.com/", f"64:ff9b::{METADATA}")


def test_no_entry_opens_a_form_that_hides_another_address() -> None:
    wide = allow("api.example.com", "0.0.0.0/0", "::/0")
    for found in ("::ffff:10.0.0.1", "2002:a00:1::", "2001:0:1::", "0.0.0.0", "ff02::1", "fe80::1%eth0"):
        refusal(wide, "https://api.example.com/", found)


ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.integers(0, 2**32 - 1).map(lambda low: IPv6Address((0xFFFF << 32) | low)),
    st.integers(0, 2**32 - 1).map(lambda low: IPv6Address((0x64FF9B << 96) | low)),
    st.integers(0, 2**125 - 1).map(lambda low: IPv6Address((1 << 125) | low)),
)


@given(ADDRESSES)
def test_what_python_takes_for_special_is_never_public_to_us(address: IPv4Address | IPv6Address) -> None:
    special = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address.is_reserved
    )
    # Newer Pythons have a list of exceptions within 192.0.0.0/24 and 2001::/23; ours has none.
    if special:
        assert kind_of(address) is not None
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour or address.teredo):
        assert kind_of(address) is not None


@given(st.lists(ADDRESSES, max_size=6), st.sampled_from(["10.0.0.0/8", "127.0.0.0/8", "fc00::/7", PUBLIC]))
def test_whatever_is_chosen_was_found_and_is_public_or_named(
    found: list[IPv4Address | IPv6Address], entry: str
) -> None:
    listed = allow("api.example.com", entry)
    network = ipaddress.ip_network(entry)
    try:
        kept = listed.choose(read_url("https://api.example.com/"), [str(address) for address in found])
    except Refused:
        kept = []
    for address in kept:
        assert address in found
        assert kind_of(address) is None or address in network
        assert str(address) != METADATA


@pytest.mark.parametrize("host", ["api.example.com", "127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254"])
@pytest.mark.parametrize("listed", [(), ("other.example.com",)])
def test_who_lists_what_a_refusal_says_may_go_there_and_to_no_other_port(
    host: str, listed: tuple[str, ...]
) -> None:
    url = f"http://{host}:8080/"
    advised = re.findall(r'"(.*?)"', refusal(allow(*listed), url))[-1]
    allow(advised).check(read_url(url))
    refusal(allow(advised), f"http://{host}:8081/")
