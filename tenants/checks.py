"""What must be right before this serves anybody: the master key, and the walls inside the database.

Web and runner refuse to start otherwise, with the whole list; `manage.py check --database default` tells it too.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tenants.master_keys import master_keys

# As PostgreSQL prints the policies that `rls.ProtectTenantTable` makes.
THIS_TENANT = "(NULLIF(current_setting('app.tenant_id'::text, true), ''::text))::uuid"

ROLE = """
    SELECT 'The role ' || r.rolname || ' is a superuser: nothing holds it back.'
    FROM pg_roles r WHERE r.rolname IN (current_user, session_user) AND r.rolsuper
    UNION ALL
    SELECT 'The role ' || r.rolname || ' bypasses row-level security.'
    FROM pg_roles r WHERE r.rolname IN (current_user, session_user) AND r.rolbypassrls
    UNION ALL
    SELECT 'The role ' || current_user || ' may become ' || r.rolname || ', which may do more than the application.'
    FROM pg_roles r
    WHERE r.rolname <> current_user AND pg_has_role(current_user, r.oid, 'MEMBER')
      AND NOT EXISTS (SELECT 1 FROM pg_roles me WHERE me.rolname = current_user AND me.rolsuper)
      AND (r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolname = current_database() || '_crossing'
           OR EXISTS (SELECT 1 FROM pg_class c WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p')))
    UNION ALL
    SELECT 'The role ' || current_user || ' owns ' || c.oid::regclass || '.'
    FROM pg_class c
    WHERE c.relowner = current_user::regrole AND c.relkind IN ('r', 'p', 'v', 'm')
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
    UNION ALL
    SELECT 'The role ' || current_user || ' may create objects in the schema public.'
    WHERE has_schema_privilege(current_user, 'public', 'CREATE')
      AND NOT EXISTS (SELECT 1 FROM pg_roles me WHERE me.rolname = current_user AND me.rolsuper)
"""
TABLES = """
    SELECT c.oid::regclass::text, a.attname, c.relrowsecurity, c.relforcerowsecurity,
           has_table_privilege(current_user, c.oid, 'TRUNCATE'),
           coalesce((SELECT array_agg(pg_get_expr(p.polqual, c.oid) || ' / ' || pg_get_expr(p.polwithcheck, c.oid))
                     FROM pg_policy p
                     WHERE p.polrelid = c.oid AND p.polpermissive AND p.polname <> 'crossing'), '{}'),
           EXISTS (SELECT 1 FROM pg_policy p, unnest(p.polroles) AS r
                   WHERE p.polrelid = c.oid AND p.polname = 'crossing'
                     AND (r = 0 OR r <> to_regrole(quote_ident(current_database() || '_crossing'))))
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped AND a.attnum > 0
    WHERE c.relkind IN ('r', 'p')
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND (a.attname = 'tenant_id' OR (c.relname = 'tenants_tenant' AND a.attname = 'id'))
    ORDER BY 1
"""
SIDE_DOORS = """
    SELECT 'The view ' || c.oid::regclass || ' shows what its owner sees: make it with security_invoker.'
    FROM pg_class c
    WHERE c.relkind IN ('v', 'm')
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND NOT coalesce(c.reloptions && ARRAY['security_invoker=true', 'security_invoker=on'], false)
    UNION ALL
    SELECT 'The function ' || p.oid::regprocedure || ' runs with the rights of ' || p.proowner::regrole || '.'
    FROM pg_proc p
    WHERE p.prosecdef AND has_function_privilege(current_user, p.oid, 'EXECUTE')
      AND p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND p.proowner IS DISTINCT FROM to_regrole(quote_ident(current_database() || '_crossing'))
"""
# What may be done to events of the audit, but for adding some.
REWRITABLE = """
    SELECT 'The audit may be changed: the role ' || current_user || ' has ' || p.privilege || ' on it.'
    FROM (VALUES ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('TRIGGER')) AS p (privilege)
    WHERE has_table_privilege(current_user, 'tenants_auditevent', p.privilege)
       OR (p.privilege = 'UPDATE' AND has_any_column_privilege(current_user, 'tenants_auditevent', p.privilege))
    UNION ALL
    SELECT 'The audit may be forged: the role ' || current_user || ' writes ' || a.attname || ' in it.'
    FROM pg_attribute a
    WHERE a.attrelid = 'tenants_auditevent'::regclass AND a.attname IN ('number', 'at', 'digest')
      AND has_column_privilege(current_user, a.attrelid, a.attnum, 'INSERT')
    UNION ALL
    SELECT 'The audit is not chained: its trigger is missing or turned off.'
    WHERE NOT EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = 'tenants_auditevent'::regclass
                        AND t.tgname = 'chain_audit' AND t.tgenabled IN ('O', 'A'))
"""


class UnsafeStart(CommandError):
    """This must not serve anybody as it is; `problems` is the whole list."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(["Parley does not start like this:", *(f"- {one}" for one in problems)]))


def assert_safe_database(database: BaseDatabaseWrapper | None = None) -> None:
    """Called first by web and runner. UnsafeStart says what is wrong."""
    if problems := [*key_problems(), *database_problems(database or connections["default"])]:
        raise UnsafeStart(problems)


def check_tenants(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """The same as a system check, of the application's role; the migrating one is an owner by design."""
    if "default" not in (databases or ()):
        return []
    hint = "docs/operating.md says how the database and its roles are set up."
    problems = [*key_problems(), *database_problems(connections["default"])]
    return [Error(problem, hint=hint, id="tenants.E001") for problem in problems]


def key_problems() -> Iterator[str]:
    try:
        master_keys()
    except ImproperlyConfigured as error:
        yield str(error)


def database_problems(database: BaseDatabaseWrapper) -> Iterator[str]:
    """Each way in which the role or a table of this connection would let one tenant see another's rows."""
    with database.cursor() as cursor:
        cursor.execute(f"{ROLE} UNION ALL {SIDE_DOORS}")
        yield from (sentence for (sentence,) in cursor.fetchall())
        cursor.execute(TABLES)
        tables = cursor.fetchall()
        if any(table == "tenants_auditevent" for table, *_ in tables):
            cursor.execute(REWRITABLE)
            yield from (sentence for (sentence,) in cursor.fetchall())
    if not tables:
        yield "There are no tables yet. Run: manage.py migrate --database owner"
    for table in tables:
        yield from _problems_of(*table)


def _problems_of(
    table: str,
    column: str,
    enabled: bool,
    forced: bool,
    truncatable: bool,
    policies: list[str],
    crossing_is_open: bool,
) -> Iterator[str]:
    if not enabled:
        yield f"The table {table} has no row-level security."
    if not forced:
        yield f"The table {table} does not force row-level security on its owner."
    if truncatable:
        yield f"The table {table} may be truncated, which row-level security does not hold back."
    own_rows = f"({column} = {THIS_TENANT})"
    if policies != [f"{own_rows} / {own_rows}"]:
        yield f"The table {table} is not held by the policy 'tenant' alone, as it was migrated."
    if crossing_is_open:
        yield f"The policy 'crossing' of {table} is open to other roles than its own."
