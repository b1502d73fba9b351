"""The app of tenants; its system checks register when it is ready."""

from django.apps import AppConfig
from django.core import checks


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        from tenants.checks import check_credential_settings, check_database, check_master_key

        checks.register(check_master_key, checks.Tags.security)
        checks.register(check_credential_settings, checks.Tags.security)
        checks.register(check_database, checks.Tags.database)
