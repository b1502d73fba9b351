"""Django's admin as an app, with the platform's own site in place of Django's."""

from django.contrib.admin.apps import AdminConfig


class PlatformConfig(AdminConfig):
    default_site = "tenants.platform.PlatformSite"
