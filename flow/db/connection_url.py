"""The URL of a database with connection options, for libraries that take nothing but a URL."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from flow.errors import ConfigurationError


def url_of(address: str, **options: str | int) -> str:
    """A connection string of either of libpq's forms as a URL, with more options in it.

    Raises:
        ConfigurationError: it is neither.
    """
    try:
        known = {**conninfo_to_dict(address), **options}
    except ProgrammingError:
        raise ConfigurationError("DATABASE_URL is not a connection string of Postgres.") from None
    user, password = (str(known.pop(name, None) or "") for name in ("user", "password"))
    database = str(known.pop("dbname", None) or user or "postgres")
    login = ":".join(quote(part, safe="") for part in (user, password) if part)
    rest = {name: str(value) for name, value in known.items() if value is not None}
    return f"postgresql://{login}@/{quote(database, safe='')}?{urlencode(rest)}"
