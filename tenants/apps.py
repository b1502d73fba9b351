"""The app of tenants; its system checks and its signals register when it is ready."""

from django.apps import AppConfig
from django.core import checks


class TenantsConfig(AppConfig):
    name = "tenants"

    def ready(self) -> None:
        from tenants import sign_ins
        from tenants.checks import check_tenants

        checks.register(check_tenants, checks.Tags.database)
        sign_ins.listen()
