"""Permission surprises: rights that nobody's work needs."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import nats.errors
import psycopg

from connectors.errors import SlateError
from connectors.jetstream import connect
from connectors.settings import Settings
from deploy.checks.postgres import connect_postgres, query
from deploy.checks.row import Check, some


def check_access(settings: Settings) -> Iterator[Check]:
    """What our roles may do beyond their work. The servers of `slate up` belong to one person, who may do all."""
    named = Settings.load(local=False)
    if named.db_host is not None:
        yield from _postgres(settings)
    if named.nats_url is not None:
        yield from asyncio.run(_nats(settings))


def _postgres(settings: Settings) -> Iterator[Check]:
    try:
        with connect_postgres(settings) as connection:
            surprises = [row["surprise"] for row in query(connection, "surprises")]
    except (SlateError, psycopg.Error):
        return  # said elsewhere
    if surprises:
        remedy = "revoke it; docs/postgresql.md has the roles and what each may"
        yield Check("access to PostgreSQL", "warn", some(surprises), remedy)
    else:
        yield Check("access to PostgreSQL", "ok", "nobody may more than the work needs")


async def _nats(settings: Settings) -> list[Check]:
    try:
        client = await connect(settings, "slate-doctor")
    except SlateError:
        return []
    try:
        answer = await client.request("$SYS.REQ.USER.INFO", timeout=2)
        user: dict[str, Any] = json.loads(answer.data).get("data") or {}
    except (nats.errors.Error, TimeoutError):
        return [Check("access to NATS", "ok", "our user may not ask what it may do")]
    finally:
        await client.close()
    surprises = nats_surprises(user)
    if surprises:
        remedy = "give it permissions; docs/nats.md has the users and what each may"
        return [Check("access to NATS", "warn", some(surprises), remedy)]
    return [Check("access to NATS", "ok", "our user may not more than it is given")]


def nats_surprises(user: dict[str, Any]) -> list[str]:
    """What is wrong with the answer of `$SYS.REQ.USER.INFO` to one user: everything that it may do without a limit."""
    name = user.get("user") or "our user"
    permissions = user.get("permissions") or {}
    found = []
    for verb in ("publish", "subscribe"):
        allowed = (permissions.get(verb) or {}).get("allow") or []
        if not allowed or ">" in allowed:
            found.append(f"{name} may {verb} to any subject" if verb == "publish" else f"{name} may read any subject")
        if verb == "publish" and any(one in ("$JS.>", "$JS.API.>") for one in allowed):
            found.append(f"{name} may delete and read any stream")
    if user.get("account") in ("$SYS", "SYS"):
        found.append(f"{name} is of the system account")
    return found
