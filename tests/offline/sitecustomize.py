"""From here on nothing but this machine can be reached.

Python imports this module by itself at its start, where PYTHONPATH names this folder.
What is asked for beyond loopback fails as it does on a laptop without a network, with
an OSError.
"""

import errno
import socket

LOCAL = ("", "localhost", "::1", "::", "0.0.0.0")
INTERNET = (socket.AF_INET, socket.AF_INET6)
_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex
_getaddrinfo = socket.getaddrinfo


def is_local(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    return host is None or host in LOCAL or host.startswith("127.")


def may_connect(connection: socket.socket, address) -> bool:
    return connection.family not in INTERNET or is_local(address[0])


def connect(self, address):
    if not may_connect(self, address):
        raise OSError(
            errno.ENETUNREACH,
            f"the tests run offline: the connection to {address} is blocked",
        )
    return _connect(self, address)


def connect_ex(self, address):
    if not may_connect(self, address):
        return errno.ENETUNREACH
    return _connect_ex(self, address)


def getaddrinfo(host, *arguments, **options):
    if not is_local(host):
        raise socket.gaierror(
            socket.EAI_NONAME,
            f"the tests run offline: the address of {host} is blocked",
        )
    return _getaddrinfo(host, *arguments, **options)


socket.socket.connect = connect
socket.socket.connect_ex = connect_ex
socket.getaddrinfo = getaddrinfo
