"""Where an outgoing request may go: URLs, the allow-list, and which address may be connected to. Pure.

Closed by default: without an allow-list nothing goes out. A host must be named on it, and then each address
that the name stands for is looked at again: what is not public (loopback, private, link-local, ...) is
refused unless an entry is a range that holds it. A metadata service is refused unless an entry is just its
address. Forms that hide another address (v4-mapped, 6to4, Teredo, "2130706433") are refused always; NAT64
only with its range on the list, and the address within is looked at too. The tables are our own: those of
`ipaddress` differ between the Pythons we run on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, NamedTuple

import attrs

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

#: What servers and proxies take as a request line, and more than a person writes.
LONGEST_URL: Final = 8_000
_MOST_NAME: Final = 253  # RFC 1035

_URL = re.compile(r"(https?)://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_LOOKS_LIKE_A_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?", re.IGNORECASE)
_SCHEME_OF_ENTRY = re.compile(r"(?:(https?)://)?(.*)", re.IGNORECASE)
_HOST_OF_ENTRY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*|[^\[\]]*:[^\[\]]*:[^\[\]]*)(?::([0-9]+))?")


class Refused(Exception):
    """This request goes nowhere; the message says why and, where there is one, names the remedy."""


class _Kind(NamedTuple):
    network: IPNetwork
    name: str


def _kinds(ranges: Mapping[str, str]) -> tuple[_Kind, ...]:
    return tuple(_Kind(ip_network(text), kind) for kind, texts in ranges.items() for text in texts.split())


#: Where an address of another kind hides, or where no server can be: no entry opens these.
_NEVER: Final = _kinds(
    {
        "an unspecified": "0.0.0.0/8 ::/128",  # Linux connects 0.0.0.0 to itself
        "a multicast": "224.0.0.0/4 ff00::/8",
        "a reserved": "240.0.0.0/4",  # and the broadcast address
        "a v4-mapped": "::ffff:0:0/96",
        "a Teredo": "2001::/32",
        "a 6to4": "2002::/16 192.88.99.0/24",
    }
)
#: Credentials of the machine for whoever asks. Some are within a range of the next table, one is public.
_METADATA: Final = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # nearly every cloud
        "169.254.170.2",  # credentials of an ECS task
        "169.254.170.23",  # of an EKS pod
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",  # Google
    )
)
_NAT64: Final = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
#: What an entry with its range opens. IANA's registries of special-purpose addresses.
_NOT_PUBLIC: Final = _kinds(
    {
        "a loopback": "127.0.0.0/8 ::1/128",
        "a link-local": "169.254.0.0/16 fe80::/10",
        "a private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10",
        "a shared": "100.64.0.0/10",  # behind a carrier's NAT
        "a NAT64": " ".join(str(network) for network in _NAT64),
        "a special-purpose": "192.0.0.0/24 198.18.0.0/15 2001::/23",
        "a documentation": "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20",
    }
)
_PUBLIC_V6: Final = IPv6Network("2000::/3")  # all that IANA has given out


def kind_of(address: IPAddress) -> str | None:
    """What makes an address no public one, with its article; None: it is public."""
    for network, name in (*_NEVER, *_NOT_PUBLIC):
        if address in network:
            return name
    if isinstance(address, IPv6Address) and address not in _PUBLIC_V6:
        return "a reserved"
    return None


def _never(address: IPAddress) -> bool:
    return any(address in network for network, _ in _NEVER)


def _inner(address: IPAddress) -> IPv4Address | None:
    """The address that a NAT64 one leads to."""
    if any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


# --- URLs -----------------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Url:
    """An absolute http or https URL, taken apart."""

    secure: bool
    host: str  #: lower case, without the brackets of an IPv6 address
    address: IPAddress | None  #: of a host that is one
    port: int
    target: str  #: path and query, as they stand in the request line

    @property
    def authority(self) -> str:
        """The value of the field Host."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == _default_port(self.secure) else f"{host}:{self.port}"

    @property
    def shown(self) -> str:
        """For logs and errors: without path and query, which may hold secrets."""
        return f"{_scheme(self.secure)}://{self.authority}"


def read_url(text: str) -> Url:
    """Take a URL apart. Raises ValueError with the end of a sentence."""
    if len(text) > LONGEST_URL:
        raise ValueError(f"is longer than {LONGEST_URL:,} bytes")
    if not all("!" <= character <= "~" for character in text) or "\\" in text:
        raise ValueError("holds characters that no URL has: write a host in punycode and the rest as %XX")
    match = _URL.fullmatch(text)
    if match is None:
        raise ValueError("must begin with http:// or https://")
    scheme, authority, target = match.groups()
    if "@" in authority:
        raise ValueError("must not hold a user or a password: send the field Authorization")
    secure = scheme.lower() == "https"
    split = _AUTHORITY.fullmatch(authority)
    if split is None:
        raise ValueError("has a host that is none")
    host, address = _host(split[1])
    port = int(split[2]) if split[2] and len(split[2]) <= 5 else _default_port(secure)
    if (split[2] and len(split[2]) > 5) or not 0 < port < 65_536:
        raise ValueError("has a port that is none: 1 to 65535")
    return Url(secure, host, address, port, target if target.startswith("/") else f"/{target}")


def _host(text: str) -> tuple[str, IPAddress | None]:
    if text.startswith("["):
        try:
            inner = IPv6Address(text[1:-1])
        except ValueError:
            raise ValueError("has a host that is no IPv6 address") from None
        if inner.scope_id is not None:
            raise ValueError("has an IPv6 address with a zone")
        return str(inner), inner
    if _LOOKS_LIKE_A_NUMBER.fullmatch(text):
        # A resolver takes 127.1, 0x7f000001 and 2130706433 for addresses, so we must not take them for names.
        try:
            address = IPv4Address(text)
        except ValueError:
            raise ValueError("has a host that is no IPv4 address: four numbers, as in 192.0.2.1") from None
        return str(address), address
    lower = text.lower()
    if len(lower) > _MOST_NAME or _NAME.fullmatch(lower) is None:
        raise ValueError("has a host that is no name")
    return lower.removesuffix("."), None


def _default_port(secure: bool) -> int:
    return 443 if secure else 80


def _scheme(secure: bool) -> str:
    return "https" if secure else "http"


# --- the allow-list -------------------------------------------------------------------------------------


@attrs.frozen(slots=True)
class Entry:
    """One entry of `http.allow`: a name, a name with all below it (`*.`), or a range of addresses."""

    text: str
    name: str | None = None  #: lower case; with `below`, what follows the star: ".example.com"
    below: bool = False
    network: IPNetwork | None = None
    secure: bool | None = None  #: None: both
    port: int | None = None  #: None: every port

    def opens(self, url: Url) -> bool:
        """Scheme and port fit."""
        return self.secure in (None, url.secure) and self.port in (None, url.port)

    def names(self, url: Url) -> bool:
        """It is a name, and the URL's."""
        if self.name is None or url.address is not None or not self.opens(url):
            return False
        return url.host.endswith(self.name) if self.below else url.host == self.name

    def holds(self, address: IPAddress) -> bool:
        """It is a range with this address. Only a range that is one address holds a metadata service."""
        if self.network is None or address not in self.network:
            return False
        return address not in _METADATA or self.network.num_addresses == 1


def read_entry(text: str) -> Entry:
    """One entry: `api.example.com`, `*.example.com:8443`, `http://name`, `10.0.0.0/8`, `[fd00::1]:8443`.

    A name without a scheme means https, without a port the scheme's own. A range without either means both
    schemes and every port. Raises ValueError with the end of a sentence.
    """
    split = _SCHEME_OF_ENTRY.fullmatch(text)
    host = None if split is None else _HOST_OF_ENTRY.fullmatch(split[2])
    if split is None or host is None or not host[1]:
        raise ValueError('is no host, such as "api.example.com", "*.example.com:8443" or "10.0.0.0/8"')
    secure = None if split[1] is None else split[1].lower() == "https"
    port = None if host[2] is None else int(host[2])
    if port is not None and not 0 < port < 65_536:
        raise ValueError("has a port that is none: 1 to 65535")
    network = _network(host[1])
    if network is None:
        secure = secure is not False
        name = host[1].lower().removesuffix(".")
        below = name.startswith("*.")
        if _NAME.fullmatch(name.removeprefix("*.")) is None or len(name) > _MOST_NAME:
            raise ValueError("is no host name: write *.example.com for all below example.com")
        return Entry(text, name.removeprefix("*"), below, None, secure, port or _default_port(secure))
    if any(network.version == never.version and network.subnet_of(never) for never, _ in _NEVER):  # type: ignore[arg-type]
        raise ValueError(f"can never be allowed: {_kind_of_network(network)} address")
    if secure is not None and port is None:
        port = _default_port(secure)
    return Entry(text, None, False, network, secure, port)


def _network(text: str) -> IPNetwork | None:
    bare = text[1:-1] if text.startswith("[") else text
    numeric = ":" in bare or "/" in bare or _LOOKS_LIKE_A_NUMBER.fullmatch(bare) is not None
    if not numeric:
        return None
    try:
        return ip_network(bare)
    except ValueError as error:
        raise ValueError(f"is no address and no range: {error}") from None


def _kind_of_network(network: IPNetwork) -> str:
    return kind_of(network.network_address) or "a public"


@attrs.frozen(slots=True)
class AllowList:
    """`[http] allow`: what outgoing requests may reach."""

    entries: tuple[Entry, ...] = ()

    def check(self, url: Url) -> None:
        """Before anything is looked up: is the host on the list? Raises Refused."""
        if not self.entries:
            raise Refused(
                f"{url.shown} is not allowed: no outgoing request is. List hosts in inversion.toml: "
                f'[http] allow = ["{_entry_for(url)}"]'
            )
        if url.address is not None:
            self._check_address(url, url.address, literal=True)
        elif not any(entry.names(url) for entry in self.entries):
            raise Refused(f'{url.shown} is not allowed: add "{_entry_for(url)}" to http.allow')

    def choose(self, url: Url, found: Iterable[str]) -> Sequence[IPAddress]:
        """Of the addresses that the host's name stands for those to connect to. Raises Refused.

        Only these may be connected to: a second look-up may find others.
        """
        self.check(url)
        if url.address is not None:
            return (url.address,)
        chosen: list[IPAddress] = []
        refusal: Refused | None = None
        for text in found:
            try:
                address = ip_address(text)
                self._check_address(url, address, literal=False)
            except ValueError:
                refusal = Refused(f"{url.shown} is not allowed: {text} is no address")
            except Refused as error:
                refusal = error
            else:
                if address not in chosen:
                    chosen.append(address)
        if not chosen:
            raise refusal or Refused(f"{url.shown} has no address")
        return chosen

    def _check_address(self, url: Url, address: IPAddress, *, literal: bool) -> None:
        kind = kind_of(address)
        subject = f"{url.shown} is not allowed"
        what = "it is" if literal else f"{address} is"
        if _never(address) or getattr(address, "scope_id", None) is not None:
            raise Refused(f"{subject}: {what} {kind or 'a scoped'} address")
        if address in _METADATA:
            kind = "a metadata"
        elif not literal and kind is None:
            return
        if not any(entry.holds(address) and entry.opens(url) for entry in self.entries):
            raise Refused(
                f"{subject}: {what} {kind or 'an unlisted'} address; if that is meant, "
                f'add "{_entry_of(address, url.port)}" to http.allow'
            )
        inner = _inner(address)
        if inner is not None:
            self._check_address(url, inner, literal=False)


NOTHING: Final = AllowList()


def _entry_for(url: Url) -> str:
    """What to write on the allow-list for this URL."""
    if url.address is not None:
        return _entry_of(url.address, url.port)
    scheme = "" if url.secure else "http://"
    port = "" if url.port == _default_port(url.secure) else f":{url.port}"
    return f"{scheme}{url.host}{port}"


def _entry_of(address: IPAddress, port: int) -> str:
    """That port alone: who opens an inner address seldom means all that listens there."""
    return f"[{address}]:{port}" if isinstance(address, IPv6Address) else f"{address}:{port}"
