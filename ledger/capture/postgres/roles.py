"""Who changes a row: a trigger of ours says so in the server's log, once a transaction, where an asset asks for it.

PostgreSQL's own log has no roles. The trigger works as the user who fires it, and what it says anybody may say who can
run SQL there: it tells who did what in a system that is used as it is meant to be, and proves nothing of any other.
"""

from __future__ import annotations

from typing import Final

from ledger.capture.postgres.base import Session
from ledger.capture.postgres.catalog import OURS
from ledger.capture.postgres.messages import TOLD_BY
from ledger.errors import CaptureFailed

SCHEMA: Final = "jinshi_actor"
TRIGGER: Final = "jinshi_actor"
NAMED_MAX: Final = 5

# Nothing in it is looked up by the search path, which is the user's. The setting lasts for the transaction, or until
# the savepoint it was made after is rolled back, and the message with it.
_MAKE: Final = f"""
CREATE SCHEMA IF NOT EXISTS {SCHEMA};
GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;
CREATE OR REPLACE FUNCTION {SCHEMA}.tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  who pg_catalog.text := pg_catalog.json_build_object(
    'session_user', session_user, 'current_user', current_user,
    'application_name', pg_catalog.current_setting('application_name'),
    'client', coalesce(pg_catalog.host(pg_catalog.inet_client_addr()), 'local'));
BEGIN
  IF pg_catalog.textne(coalesce(pg_catalog.current_setting('{TOLD_BY}', true), ''), who) THEN
    PERFORM pg_catalog.pg_logical_emit_message(true, '{TOLD_BY}', pg_catalog.convert_to(who, 'UTF8'));
    PERFORM pg_catalog.set_config('{TOLD_BY}', who, true);
  END IF;
  RETURN NULL;
END $$;
GRANT EXECUTE ON FUNCTION {SCHEMA}.tell() TO PUBLIC;
"""
_MADE: Final = """
SELECT 1 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %s AND p.proname = 'tell'
"""
# Of a table that is divided, a statement fires the triggers of the one it names: the whole, or a part.
_LACKING: Final = f"""
SELECT format('%%I.%%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND {OURS}
AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = %s AND t.tgenabled IN ('O', 'A'))
ORDER BY c.oid
"""  # noqa: S608 (all ours)


async def tell_actors(session: Session) -> tuple[str, ...]:
    """Have every table say who changes it; what does not, a line each. A lock on each table that lacks the trigger."""
    lacking = await tables_lacking(session)
    if not lacking:
        return ()
    try:
        await session.script(_MAKE)
    except CaptureFailed as error:
        return (f"who changes rows is not recorded: {error.what}",)
    problems: list[str] = []
    for name in lacking:
        try:
            await session.script(
                f"CREATE OR REPLACE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {name} "
                f"FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.tell(); ALTER TABLE {name} ENABLE TRIGGER {TRIGGER}"
            )
        except CaptureFailed as error:
            problems.append(f"who changes table {name} is not recorded: {error.what}")
    more = len(problems) - NAMED_MAX
    return (*problems[:NAMED_MAX], *([f"and so it is with {more} more tables"] if more > 0 else []))


async def tables_lacking(session: Session) -> list[str]:
    """The tables, in SQL, that do not say who changes them. Raises CaptureFailed."""
    return [name for (name,) in await session.fetch(_LACKING, TRIGGER)]


async def forget_actors(session: Session) -> bool:
    """Remove all of it, if it is there; whether it was. Raises CaptureFailed."""
    if not await session.fetch(_MADE, SCHEMA):
        return False
    await session.script(REMOVE)
    return True


REMOVE: Final = f"DROP FUNCTION IF EXISTS {SCHEMA}.tell() CASCADE; DROP SCHEMA IF EXISTS {SCHEMA}"
"""SQL that removes all of it."""
