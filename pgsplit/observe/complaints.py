"""Warnings that several commands give, each with a hint."""

from __future__ import annotations

from collections.abc import Iterator

from pgsplit.base.text import seconds
from pgsplit.project.project import Service

NEAR_LIMIT = 0.8
MUCH_WAL_BYTES = 10 * 2**30
FOLLOWER_IS_AT_WORK_SECONDS = 30.0
NO_FOLLOWER = "no follower"


def kept(name: str, kept_bytes: int, limit_bytes: int | None, where: str) -> Iterator[str]:
    """Warn of a slot that keeps too much WAL.

    Args:
        name: the slot's name.
        kept_bytes: the WAL that is kept for it.
        limit_bytes: how much may be kept before the slot is lost; None if only the disk limits it.
        where: the database that keeps it, for people.
    """
    if limit_bytes is not None and kept_bytes > limit_bytes * NEAR_LIMIT:
        yield (
            f"The slot {name} keeps {kept_bytes // 2**20} MB of WAL on {where} and is lost at"
            f" {limit_bytes // 2**20} MB; changes that it has not sent are then lost to the"
            " mirror.\n"
            "  hint:  Let it catch up: runner.py sync, or raise max_slot_wal_keep_size."
        )
    elif limit_bytes is None and kept_bytes > MUCH_WAL_BYTES:
        yield (
            f"The slot {name} keeps {kept_bytes // 2**20} MB of WAL on {where}; only the disk"
            " limits it.\n"
            "  hint:  Let it catch up: runner.py sync, or set max_slot_wal_keep_size."
        )


def half_landed(service: Service) -> str:
    """Say that the slot of a landing keeps WAL although nobody reads it."""
    return (
        f"A landing of {service.database} was interrupted, or is under way. Its slot keeps WAL"
        f" on the monolith.\n  hint:  runner.py run {service.role}"
    )


def failing(service: Service, since: object, failure: str) -> str:
    """Say since when every sync of a service has failed, and why."""
    return (
        f"Every sync of {service.database} has failed since {since}: {failure}\n"
        f"  hint:  Fix that, then: runner.py sync {service.role}"
    )


def no_follower(service: Service, pending: int, ago_seconds: float) -> str:
    """Say that changes of a service wait, and that nobody applies them."""
    return (
        f"{pending:,} changes wait to be applied, and the last sync was"
        f" {seconds(ago_seconds)} ago: {NO_FOLLOWER} of {service.database} is running.\n"
        f"  hint:  runner.py sync {service.role} --follow"
    )
