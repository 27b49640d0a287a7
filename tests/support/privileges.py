"""Which privileges statements of `sql/` need, asked of PostgreSQL itself."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files

import psycopg
from psycopg import errors

_PARAMETER = re.compile(r"%\((\w+)\)[sb]")
_COMMENT = re.compile(r"--.*")


def statements(*names: str) -> dict[str, str]:
    """Files below `sql/`, or all of a folder of it, with NULL for each parameter."""
    found = {}
    for name in names:
        place = files("sql").joinpath(*name.split("/"))
        for file in place.iterdir() if place.is_dir() else (place,):
            text = _COMMENT.sub("", file.read_text(encoding="utf-8"))
            found[f"{name.split('/')[0]}/{file.name}"] = _PARAMETER.sub("NULL", text).strip()
    return found


def refused(connection: psycopg.Connection, role: str, statement: str) -> str | None:
    """What a role lacks for a statement, None where it may. Nothing is changed: what writes is planned only, which
    looks at privileges; what selects is executed, for the sake of functions that write."""
    planned = statement if statement.startswith(("SELECT", "LOCK")) else f"EXPLAIN {statement}"
    with as_role(connection, role):
        try:
            connection.execute(planned.encode())
        except errors.InsufficientPrivilege as error:
            return error.diag.message_primary
    return None


@contextmanager
def as_role(connection: psycopg.Connection, role: str) -> Iterator[None]:
    """Be another role for a while, and undo what was done meanwhile."""
    with connection.transaction(force_rollback=True):
        connection.execute(f"SET LOCAL ROLE {role}".encode())
        yield


def granted(connection: psycopg.Connection, role: str) -> list[tuple[str, str]]:
    """Privileges of a role on tables, columns and sequences of SLATE, as `GRANT` words them, months left out."""
    rows = connection.execute(
        """
        SELECT c.oid::regclass::text, acl.privilege_type
        FROM pg_class AS c, LATERAL aclexplode(c.relacl) AS acl
        WHERE c.relnamespace IN ('public'::regnamespace, 'slate'::regnamespace) AND NOT c.relispartition
            AND c.relkind <> 'S' AND acl.grantee = %(role)s::regrole
        UNION ALL
        SELECT a.attrelid::regclass::text, format('%%s (%%I)', acl.privilege_type, a.attname)
        FROM pg_attribute AS a, LATERAL aclexplode(a.attacl) AS acl
        WHERE acl.grantee = %(role)s::regrole AND a.attrelid >= 16384
        ORDER BY 1, 2
        """,
        {"role": role},
    )
    return [(table, privilege) for table, privilege in rows]


def unneeded(connection: psycopg.Connection, role: str, work: Sequence[str]) -> list[tuple[str, str]]:
    """Privileges without which a role could do all of its work just the same."""
    found = []
    for table, privilege in granted(connection, role):
        with connection.transaction(force_rollback=True):
            connection.execute(f"REVOKE {privilege} ON {table} FROM {role}".encode())
            if not any(refused(connection, role, one) for one in work):
                found.append((table, privilege))
    return found
