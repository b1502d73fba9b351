"""Real PostgreSQL and Valkey for one run of the tests, set up as in operation, and gone afterwards."""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import psycopg

from config.embedded import EmbeddedServers
from tenants.master_keys import new_master_key
from tenants.provision import DatabaseUrls, provision

DATABASE = "parley_test"


class TestServers:
    """Servers under a short path of their own. Each worker of pytest-xdist has its own: a runner claims
    whatever turns its database has."""

    __test__ = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="plt-", dir="/tmp"))  # short: unix sockets lie below
        self.folder.chmod(0o711)  # the servers' own user passes through
        self.data_dir = self.folder / "data"
        self.embedded = EmbeddedServers(self.data_dir, durable=False)
        self.urls: DatabaseUrls

    def start(self) -> None:
        """Start both and point the settings, which are not loaded yet, at them."""
        self.embedded.start()
        self.urls = provision(self.embedded.admin_database_url, DATABASE)
        os.environ |= {
            "DATA_DIR": str(self.data_dir),
            "DATABASE_URL": self.urls.app,
            "DATABASE_OWNER_URL": self.urls.owner,
            "REDIS_URL": self.embedded.redis_url,
            "SECRET_KEY": secrets.token_urlsafe(50),
            "MASTER_KEY": new_master_key(),
            "SANDBOX_DIR": str(self.folder / "s"),
            "DJANGO_SETTINGS_MODULE": "config.settings",
        }

    def stop(self) -> None:
        self.embedded.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def as_admin(self) -> psycopg.Connection:
        """A superuser's connection to the tests' database, to see what really lies there."""
        return psycopg.connect(self.embedded.admin_database_url, dbname=DATABASE, autocommit=True)
