"""The login: to whom a connection may give the password itself."""

from __future__ import annotations

import ipaddress
import socket
import struct
from enum import Enum
from typing import Any

from pymysql.connections import Connection
from pymysql.protocol import MysqlPacket

from src.errors import DatabaseError

_WITHOUT_PACKAGE = {
    "cryptography": "caching_sha2_password over TCP needs TLS; set DB_SSL_MODE=required, or verify-ca to know who "
    "answers",
    "pynacl": "client_ed25519 needs a package more: pip install PyNaCl",
}
# Ways of authentication that show knowledge of the password and keep it here. caching_sha2_password is one of them
# until its server asks for "full authentication".
_PROOFS = frozenset({b"mysql_native_password", b"caching_sha2_password", b"client_ed25519"})
_AUTH_SWITCH, _MORE_DATA = b"\xfe", b"\x01"  # the first byte of a packet
_FULL_AUTHENTICATION = b"\x01\x04"


class Peer(Enum):
    """Who answers at the other end of a connection."""

    KNOWN = "a unix socket, or a server with a verified certificate"
    THIS_HOST = "a program on this host, with no verified certificate"
    ANYBODY = "whoever answers"


class CautiousConnection(Connection):
    """A connection of the driver that keeps the password from a server which may be anybody's.

    Left alone, the driver sends the password to every server that asks for it within TLS, whoever holds the other
    end, or encrypts it with a key that the same server sends.
    """

    peer = Peer.ANYBODY
    _is_login = False
    _auth_plugin_name: str  # that the server's greeting names

    def connect(self, sock: Any = None) -> None:
        """Log in over a connected socket. Raises what the driver raises, and DatabaseError for what it trips over."""
        try:
            super().connect(sock)
        except (RuntimeError, ValueError, LookupError, AttributeError, NameError, struct.error) as error:
            for package, cure in _WITHOUT_PACKAGE.items():
                if package in str(error):
                    raise DatabaseError(2061, cure) from error
            said = f"no MySQL or MariaDB server answers like this ({error}); check DB_HOST and DB_PORT"
            raise DatabaseError(2012, said) from error

    def _request_authentication(self) -> None:
        if self._auth_plugin_name == "sha256_password":  # within TLS, the first answer would hold the password
            self._refuse_unless_known(b"sha256_password")
        self._is_login = True
        try:
            super()._request_authentication()  # type: ignore[misc]
        finally:
            self._is_login = False

    def _read_packet(self, packet_type: type[MysqlPacket] = MysqlPacket) -> MysqlPacket:
        packet: MysqlPacket = super()._read_packet(packet_type)  # type: ignore[no-untyped-call]
        if self._is_login:
            body: bytes = packet.get_all_data()  # type: ignore[no-untyped-call]
            if body.startswith(_AUTH_SWITCH):
                self._refuse_unless_known(body[1:].partition(b"\0")[0])
            elif body.startswith(_FULL_AUTHENTICATION):
                self._refuse_unless_known(b"full authentication of caching_sha2_password")
        return packet

    def _refuse_unless_known(self, method: bytes) -> None:
        """Raise DatabaseError for a method that needs the password itself, unless this server may have it."""
        asks_in_clear = method in (b"mysql_clear_password", b"dialog")
        if self.peer is Peer.KNOWN or method in _PROOFS or (self.peer is Peer.THIS_HOST and not asks_in_clear):
            return
        raise DatabaseError(
            2059, f"the server asks for the password itself ({method.decode(errors='replace')[:60]}), and without a "
            "verified certificate it may be anybody's; set DB_SSL_MODE=verify-ca or verify-identity",
        )  # fmt: skip


def is_this_host(line: socket.socket) -> bool:
    """Tell whether the other end of a TCP connection is a loopback address, which nothing from outside can have."""
    address = ipaddress.ip_address(line.getpeername()[0].partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
