"""Real PostgreSQL and real Valkey out of wheels, for a first look, for development and for tests."""

from config.embedded.errors import ServerError
from config.embedded.servers import EmbeddedServers

__all__ = ["EmbeddedServers", "ServerError"]
