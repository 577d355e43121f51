"""Where the broker is: one reading of `MMQ_BROKER_URL`, or of its absence, for all who speak to it.

Standard library only: `mmq submit` loads this. Never shows a password.
"""

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from scheduler.config import Settings
from scheduler.errors import UsageError

_TCP = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss"}
_UNIX = frozenset({"redis+socket", "unix"})


@dataclass(frozen=True, kw_only=True)
class Address:
    """Either a unix socket's path, or a host and port."""

    url: str  # as Celery takes it; may carry a password
    shown: str  # as people may see it
    path: str | None = None
    host: str | None = None
    port: int = 6379


def broker_address(settings: Settings) -> Address:
    """The broker's address; UsageError if `MMQ_BROKER_URL` is none."""
    if settings.broker_url is None:
        return _unix(str(settings.broker_socket), query="")
    try:
        parts = urlsplit(settings.broker_url)
        host, port = parts.hostname, parts.port or 6379
    except ValueError as error:
        raise _refusal(str(error)) from None
    if parts.scheme in _UNIX and parts.path:
        return _unix(unquote(parts.path), query=parts.query)
    if parts.scheme not in _TCP or not host:
        raise _refusal(f"a scheme of {parts.scheme!r}" if parts.scheme else "no scheme")
    url = parts._replace(scheme=_TCP[parts.scheme]).geturl()
    return Address(url=url, shown=f"{parts.scheme}://{host}:{port}{parts.path}", host=host, port=port)


def _unix(path: str, *, query: str) -> Address:
    url = f"redis+socket://{quote(path)}" + (f"?{query}" if query else "")
    return Address(url=url, shown=path, path=path)


def _refusal(reason: str) -> UsageError:
    return UsageError(
        f"MMQ_BROKER_URL is not the address of a Redis or Valkey server: {reason}",
        hint="export MMQ_BROKER_URL=redis://127.0.0.1:6379/0",
    )
