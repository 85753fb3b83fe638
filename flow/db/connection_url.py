"""The URL of a database with connection options, for libraries that take nothing but a URL."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from flow.errors import ConfigurationError


def shown(address: str) -> str:
    """Where a connection string leads, for people: user, host and database, and no password.

    Raises:
        ConfigurationError: it is no connection string.
    """
    known = _parts(address)
    user, host, port = (known.get(name) for name in ("user", "host", "port"))
    place = f"{host or 'localhost'}:{port}" if port else str(host or "localhost")
    login = f"{user}@" if user else ""
    return f"postgresql://{login}{place}/{known.get('dbname') or user or 'postgres'}"


def url_of(address: str, **options: str | int) -> str:
    """A connection string of either of libpq's forms as a URL, with more options in it.

    Raises:
        ConfigurationError: it is neither.
    """
    known = {**_parts(address), **options}
    user, password = (str(known.pop(name, None) or "") for name in ("user", "password"))
    database = str(known.pop("dbname", None) or user or "postgres")
    login = ":".join(quote(part, safe="") for part in (user, password) if part)
    rest = {name: str(value) for name, value in known.items() if value is not None}
    return f"postgresql://{login}@/{quote(database, safe='')}?{urlencode(rest)}"


def _parts(address: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(address))
    except ProgrammingError:
        raise ConfigurationError("DATABASE_URL is not a connection string of Postgres.") from None
