"""The walls inside the database, looked at for every table and function that there is, also those to come."""

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import models

from tenants.models import AuditEvent, Tenant
from tests.cast import House
from tests.servers import TestServers

OF_TENANTS = [
    model
    for model in apps.get_models()
    if model is Tenant or any(field.name == "tenant" for field in model._meta.local_fields)
]


@pytest.mark.parametrize("model", OF_TENANTS, ids=lambda model: model.__name__)
def test_without_a_tenant_a_table_is_empty(
    house: House, servers: TestServers, model: type[models.Model]
) -> None:
    """Whatever other tests have left in it."""
    assert not model._default_manager.exists()
    if model is not AuditEvent:  # from which nothing may be deleted at all
        assert model._default_manager.all().delete()[0] == 0


def test_a_row_refers_to_rows_of_its_own_tenant_only(database: None, servers: TestServers) -> None:
    with servers.as_admin() as admin:
        plain = admin.execute(
            """
            SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c
            WHERE c.contype = 'f' AND c.confrelid <> 'tenants_tenant'::regclass
              AND EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.confrelid AND a.attname = 'tenant_id')
              AND NOT EXISTS (
                  SELECT 1 FROM unnest(c.conkey, c.confkey) AS k(here, there)
                  JOIN pg_attribute h ON h.attrelid = c.conrelid AND h.attnum = k.here
                  JOIN pg_attribute t ON t.attrelid = c.confrelid AND t.attnum = k.there
                  WHERE h.attname = 'tenant_id' AND t.attname = 'tenant_id')
            """
        ).fetchall()
    assert plain == []


@pytest.mark.parametrize("model", OF_TENANTS, ids=lambda model: model.__name__)
def test_each_relation_of_a_model_is_one_of_the_database_too(
    database: None, servers: TestServers, model: type[models.Model]
) -> None:
    """`db_constraint=False` leaves it to the migration, which could forget."""
    for relation in model._meta.local_fields:
        if not isinstance(relation, models.ForeignKey):
            continue
        with servers.as_admin() as admin:
            found = admin.execute(
                """
                SELECT 1 FROM pg_constraint c
                JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)
                WHERE c.contype = 'f' AND c.conrelid = %s::regclass AND c.confrelid = %s::regclass
                  AND a.attname = %s
                """,
                [model._meta.db_table, relation.related_model._meta.db_table, relation.column],
            ).fetchone()
        assert found, relation


def test_what_crosses_tenants_has_a_path_of_its_own_and_is_the_applications_alone(
    database: None, servers: TestServers
) -> None:
    with servers.as_admin() as admin:
        functions = admin.execute(
            """
            SELECT p.proname, p.prosecdef, p.proconfig, p.proacl::text[] FROM pg_proc p
            WHERE p.proowner = (current_database() || '_crossing')::regrole
            """
        ).fetchall()
    assert {"bearer_of", "memberships_of"} <= {name for name, *_ in functions}
    for name, definer, config, acl in functions:
        assert definer, name
        assert config == ["search_path=public, pg_temp"], name
        assert not any(entry.startswith("=") for entry in acl), name
        assert any(entry.startswith("parley_test_app=X/") for entry in acl), name


def test_the_migrations_are_those_of_the_models(database: None) -> None:
    call_command("makemigrations", "tenants", "conversations", check=True, dry_run=True, verbosity=0)
