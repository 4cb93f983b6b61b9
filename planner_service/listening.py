"""The socket that the server listens on."""

from __future__ import annotations

import errno
import ipaddress
import socket

from hnet_vjepa.errors import UserError


def listen(host: str, port: int, local_only: bool) -> socket.socket:
    """Return a listening TCP socket. Port 0 takes a free one, which ``getsockname()`` returns.

    With ``local_only``, only addresses of the loopback interface are accepted. Raises UserError for a host that is
    unknown or not allowed, and for a port that is in use or not permitted.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)[0]
    except (socket.gaierror, UnicodeError, OverflowError):
        raise UserError(f"cannot listen on host '{host}': it is not an address of this machine") from None
    if local_only and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UserError(
            f"refusing to listen on {host} without a token: anybody on the network could use the planner; "
            "set HNET_TOKEN (or --token), or listen on 127.0.0.1"
        )
    # The protocol is given because asyncio disables Nagle's algorithm only for sockets created with it; otherwise
    # each response would wait 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen on {host} port {port}: {_reason(error)}") from None
    return listener


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; choose another one with --port, or --port 0 for any free one"
    if error.errno == errno.EACCES:
        return "ports below 1024 need administrator rights; choose a higher one with --port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "it is not an address of this machine"
    return error.strerror or str(error)
