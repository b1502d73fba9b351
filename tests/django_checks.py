"""`python -m tests.django_checks`: Django's own checks, on a database that was migrated for the purpose.

With the database they include the walls between tenants (`tenants.checks`), and that every change of a model
has its migration.
"""

from tests.servers import TestServers


def main() -> None:
    servers = TestServers()
    servers.start()
    try:
        # The settings read the environment once, so the servers come first of all.
        import django
        from django.core.management import call_command
        from django.db import connections

        django.setup()
        call_command("migrate", database="owner", interactive=False, verbosity=0)
        call_command("check", databases=["default"], fail_level="WARNING")
        call_command("makemigrations", check_changes=True, dry_run=True)
        connections.close_all()
    finally:
        servers.stop()


if __name__ == "__main__":
    main()
