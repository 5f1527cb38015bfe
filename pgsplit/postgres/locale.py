"""A database's encoding and locale: how another one gets the same, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from pgsplit.base.errors import NotReady
from pgsplit.postgres.connect import describe

PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
# PostgreSQL 17 renamed a column and added a provider; 16 added rules.
LOCALE = """
    select
        pg_encoding_to_char(encoding), to_jsonb(database),
        pg_database_collation_actual_version(oid)
    from pg_database as database where datname = current_database()
"""
# ICU makes any locale, if the server was built with it. Whatever a database has, its server has.
OFFERED = """
    select distinct collcollate from pg_collation
    where collprovider = 'c' and collcollate is not null
    union
    select datcollate from pg_database
"""
HAS_ICU = "select exists (select from pg_collation where collprovider = 'i')"
HASH = "Texts are compared by hashes of their bytes, and UTF8 is the only encoding for every text."


@dataclass(frozen=True)
class Locale:
    """A database's encoding, and what decides on order and case of its texts."""

    encoding: str
    provider: str
    collate: str
    ctype: str
    locale: str
    rules: str
    version: str

    def __str__(self) -> str:
        parts = [self.provider, self.locale or self.collate]
        if self.ctype not in (self.locale, self.collate):
            parts.append(f"LC_CTYPE {self.ctype}")
        parts += [f"rules {self.rules}"] if self.rules else []
        parts += [f"version {self.version}"] if self.version else []
        return ", ".join(parts)

    @property
    def normal(self) -> Locale:
        """The same locale, with libc's names spelled in one way."""
        return replace(self, collate=_spelled(self.collate), ctype=_spelled(self.ctype))

    @property
    def options(self) -> sql.Composed:
        """Write what `create database` needs for this locale."""
        wanted: Mapping[str, str] = {
            "encoding": self.encoding,
            "locale_provider": self.provider,
            "lc_collate": self.collate,
            "lc_ctype": self.ctype,
            "icu_locale": self.locale if self.provider == "icu" else "",
            "icu_rules": self.rules,
            "builtin_locale": self.locale if self.provider == "builtin" else "",
        }
        return sql.SQL(" ").join(
            sql.SQL("{} {}").format(sql.SQL(name), sql.Literal(value))
            for name, value in wanted.items()
            if value
        )


# Servers before 17 have no locale of their own; libc's sorts in the same order.
CODE_POINTS = (
    Locale("", "libc", "C.UTF-8", "C.UTF-8", "", "", ""),
    Locale("", "libc", "C", "C", "", "", ""),
)
NEAREST = {("builtin", "C.UTF-8"): CODE_POINTS, ("builtin", "C"): CODE_POINTS[1:]}
# How a server says that it does not have a locale, a provider, or the option.
UNKNOWN = (
    *(psycopg.errors.WrongObjectType, psycopg.errors.InvalidParameterValue),
    *(psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError),
    *(psycopg.errors.InvalidObjectDefinition, psycopg.errors.InternalError_),
)


def locale_of(database: psycopg.Connection[Any]) -> Locale:
    """Read a database's encoding and locale."""
    row = database.execute(LOCALE).fetchone()
    assert row is not None
    encoding, found, version = row
    return Locale(
        encoding,
        PROVIDERS.get(found["datlocprovider"], found["datlocprovider"]),
        found["datcollate"],
        found["datctype"],
        found.get("datlocale") or found.get("daticulocale") or "",
        found.get("daticurules") or "",
        version or "",
    )


def require_utf8(database: psycopg.Connection[Any]) -> None:
    """Refuse a monolith whose texts services can't hold byte for byte, before anything is made.

    Raises:
        NotReady: its encoding is not UTF8; SQL_ASCII does not even say what its bytes mean.
    """
    encoding = database.info.parameter_status("server_encoding")
    if encoding == "UTF8":
        return
    why, name = HASH, database.info.dbname
    source = f"--encoding={encoding}"
    if encoding == "SQL_ASCII":
        why = "SQL_ASCII does not say what the bytes of a text mean, so no other database can tell."
        source = "--encoding=THEIR_REAL_ENCODING"
    raise NotReady(
        f"The monolith's encoding is {encoding}; it has to be UTF8. {why} Nothing was changed.",
        where=describe(database.info.dsn),
        hint=f"Move it into a database in UTF8 first: createdb --template=template0 --encoding=UTF8"
        f" {name}_utf8 && pg_dump {source} {name} | psql {name}_utf8",
    )


def create_like(server: psycopg.Connection[Any], name: str, owner: str, wanted: Locale) -> str:
    """Create a database with a locale; if the server has no such one, with the nearest or its own.

    Args:
        server: a connection to the server's maintenance database.
        name: the database.
        owner: the role that shall own it; empty for this login.
        wanted: the encoding and locale.

    Returns:
        Why it has another locale; empty if it has the wanted one.
    """
    create = sql.SQL("create database {} {} template template0 ").format(
        sql.Identifier(name),
        sql.SQL("owner {}").format(sql.Identifier(owner)) if owner else sql.SQL(""),
    )
    why = ""
    for one in (wanted, *NEAREST.get((wanted.provider, wanted.locale), ())):
        try:
            server.execute(create + replace(one, encoding=wanted.encoding).options)
            return why
        except UNKNOWN as error:
            why = why or error.diag.message_primary or str(error).strip()
    server.execute(create + sql.SQL("encoding {}").format(sql.Literal(wanted.encoding)))
    return why


def offers(server: psycopg.Connection[Any], wanted: Locale) -> bool:
    """Tell whether a server has a locale, as far as its catalogue says."""
    if wanted.provider == "builtin":
        return server.info.server_version >= 170000
    if wanted.provider == "icu":
        return server.execute(HAS_ICU).fetchone() == (True,)
    known = {"C", *(_spelled(row[0]) for row in server.execute(OFFERED))}
    return {wanted.normal.collate, wanted.normal.ctype} <= known


def _spelled(name: str) -> str:
    """Spell a locale of libc in one way: C.UTF-8 and C.utf8 are the same, and POSIX is C."""
    language, dot, rest = name.partition(".")
    codeset, at, modifier = rest.partition("@")
    codeset = "".join(one for one in codeset.lower() if one.isalnum())
    return f"{'C' if language == 'POSIX' else language}{dot}{codeset}{at}{modifier}"


def difference(
    monolith: psycopg.Connection[Any], database: psycopg.Connection[Any], why: str = ""
) -> list[str]:
    """Say how two databases order and compare texts differently.

    Args:
        monolith: a connection to the original.
        database: a connection to the other one.
        why: why it could not be the same, if known.

    Returns:
        A note, or nothing.
    """
    one, other = locale_of(monolith), locale_of(database)
    if one.normal == other.normal:
        return []
    return [
        f"{database.info.dbname} may sort texts, and tell capitals, differently than the monolith:"
        f" its locale is {other}; the monolith's is {one}."
        + (f" The server refused that one: {why}." if why else "")
        + " Indexes, ORDER BY, ILIKE and lower() follow it."
    ]
