"""Python imports this by itself at start-up where PYTHONPATH names this folder: nothing but this machine can be reached from then on.

What is asked for beyond loopback fails as it does on a laptop without network, with an OSError.
"""

import errno
import socket

LOCAL = ("", "localhost", "::1", "::", "0.0.0.0")
_connect, _connect_ex, _getaddrinfo = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.getaddrinfo,
)


def is_local(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    return host is None or host in LOCAL or host.startswith("127.")


def _may_connect(connection: socket.socket, address) -> bool:
    return connection.family not in (socket.AF_INET, socket.AF_INET6) or is_local(
        address[0]
    )


def connect(self, address):
    if not _may_connect(self, address):
        raise OSError(
            errno.ENETUNREACH,
            f"the tests run offline: the connection to {address} is blocked",
        )
    return _connect(self, address)


def connect_ex(self, address):
    return (
        _connect_ex(self, address) if _may_connect(self, address) else errno.ENETUNREACH
    )


def getaddrinfo(host, *arguments, **options):
    if not is_local(host):
        raise socket.gaierror(
            socket.EAI_NONAME,
            f"the tests run offline: the address of {host} is blocked",
        )
    return _getaddrinfo(host, *arguments, **options)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = (
    connect,
    connect_ex,
    getaddrinfo,
)
