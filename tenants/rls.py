"""Migration operations that keep tenants apart in the database itself.

The migrating role owns the tables; the application's role (`<database>_app`) owns nothing and is under
row-level security; what has to cross tenants is a function owned by `<database>_crossing`, a role that
cannot log in. Role names derive from the database's name when the migration runs.
"""

from collections.abc import Sequence
from typing import cast

from django.apps.registry import Apps
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations.operations.base import Operation
from django.db.migrations.state import ProjectState
from django.db.models import Model

THIS_TENANT = "nullif(current_setting('app.tenant_id', true), '')::uuid"


class _Rule(Operation):
    """Changes the database, not the models."""

    reversible = False
    reduces_to_sql = True

    def state_forwards(self, app_label: str, state: ProjectState) -> None:
        pass

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: ProjectState,
        to_state: ProjectState,
    ) -> None:
        schema_editor.execute(self.sql(app_label, to_state.apps), params=None)

    def sql(self, app_label: str, apps: Apps) -> str:
        raise NotImplementedError


class ProtectTenantTable(_Rule):
    """Force row-level security on a table that belongs to tenants, from its first migration on.

    Policy `tenant`: only rows of the tenant named. Policy `crossing`: every row, for the crossing role.
    `column` holds the tenant's id.
    """

    def __init__(self, model_name: str, column: str = "tenant_id") -> None:
        self.model_name = model_name
        self.column = column

    def describe(self) -> str:
        return f"Force row-level security on {self.model_name}"

    def sql(self, app_label: str, apps: Apps) -> str:
        table = _table(apps, app_label, self.model_name)
        return f"""
            ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY;
            ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY;
            CREATE POLICY tenant ON "{table}"
                USING ("{self.column}" = {THIS_TENANT}) WITH CHECK ("{self.column}" = {THIS_TENANT});
            {_for_crossing("CREATE POLICY crossing ON %I TO %I USING (true) WITH CHECK (true)", table)}
            {_for_crossing("GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO %I", table)}
        """


class AppendOnly(_Rule):
    """The application may read a table's rows and add some with these columns, and change or delete none."""

    def __init__(self, model_name: str, columns: Sequence[str]) -> None:
        self.model_name = model_name
        self.columns = columns

    def describe(self) -> str:
        return f"Let the application only add to {self.model_name}"

    def sql(self, app_label: str, apps: Apps) -> str:
        table, columns = _table(apps, app_label, self.model_name), ", ".join(self.columns)
        return f"""
            REVOKE ALL ON "{table}" FROM PUBLIC;
            {_for_role("app", "REVOKE ALL ON %I FROM %I", table)}
            {_for_role("app", f"GRANT SELECT, INSERT ({columns}) ON %I TO %I", table)}
        """


class GrantToCrossing(_Rule):
    """Let the crossing functions use a table that belongs to no tenant."""

    def __init__(self, model_name: str, privileges: str = "SELECT") -> None:
        self.model_name = model_name
        self.privileges = privileges

    def describe(self) -> str:
        return f"Grant {self.privileges} on {self.model_name} to the crossing functions"

    def sql(self, app_label: str, apps: Apps) -> str:
        return _for_crossing(f"GRANT {self.privileges} ON %I TO %I", _table(apps, app_label, self.model_name))


class CompositeForeignKey(_Rule):
    """A foreign key (tenant_id, field) → (tenant_id, id): a row can't refer to another tenant's.

    The Django field has `db_constraint=False`, the target a unique constraint on (tenant, id).
    """

    def __init__(self, model_name: str, field: str, to_model: str, on_delete: str = "CASCADE") -> None:
        self.model_name = model_name
        self.field = field
        self.to_model = to_model
        self.on_delete = on_delete

    def describe(self) -> str:
        return f"Tie {self.model_name}.{self.field} to its own tenant's {self.to_model}"

    def sql(self, app_label: str, apps: Apps) -> str:
        table = _table(apps, app_label, self.model_name)
        target = (
            _table(apps, *self.to_model.split("."))
            if "." in self.to_model
            else _table(apps, app_label, self.to_model)
        )
        column = f"{self.field}_id"
        action = f'SET NULL ("{column}")' if self.on_delete == "SET NULL" else self.on_delete
        return f"""
            ALTER TABLE "{table}" ADD CONSTRAINT "{table}_{column}_of_tenant"
                FOREIGN KEY (tenant_id, "{column}") REFERENCES "{target}" (tenant_id, id) ON DELETE {action};
        """


class CrossingFunction(_Rule):
    """A database function that sees all tenants, for the application's role to call and nobody else.

    `body` is PL/pgSQL from DECLARE or BEGIN on. It runs as the crossing role, with a search path of its own.
    """

    def __init__(self, name: str, arguments: str, returns: str, body: str) -> None:
        self.name = name
        self.arguments = arguments
        self.returns = returns
        self.body = body

    def describe(self) -> str:
        return f"Define {self.name}(), which crosses tenants"

    def sql(self, app_label: str, apps: Apps) -> str:
        # Made as the crossing role, which so owns it: the migrating role may become that one, but does not
        # inherit from it, and stays under row-level security itself.
        return f"""
            DO $role$ BEGIN
                EXECUTE format('SET LOCAL ROLE %I', current_database() || '_crossing');
            END $role$;
            CREATE OR REPLACE FUNCTION "{self.name}"({self.arguments}) RETURNS {self.returns}
                LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
                AS $crossing$ {self.body} $crossing$;
            DO $grant$ DECLARE made regprocedure;
            BEGIN
                FOR made IN SELECT oid FROM pg_proc
                    WHERE proname = '{self.name}' AND pronamespace = 'public'::regnamespace
                LOOP
                    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', made, current_database() || '_app');
                END LOOP;
            END $grant$;
            RESET ROLE;
        """


def _table(apps: Apps, app_label: str, model_name: str) -> str:
    model = cast(type[Model], apps.get_model(app_label, model_name))
    return model._meta.db_table


def _for_crossing(statement: str, table: str) -> str:
    return _for_role("crossing", statement, table)


def _for_role(role: str, statement: str, table: str) -> str:
    """The statement, with the table and the database's role of this kind in place of its two %I."""
    return f"""
        DO $rule$ BEGIN
            EXECUTE format('{statement}', '{table}', current_database() || '_{role}');
        END $rule$;"""
