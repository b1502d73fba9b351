"""Who pays for a turn's requests to the model: the credential that its author may use, looked up for each one.

The engine asks through `claude_runner.Account`, outside the sandbox; what was revoked counts no more from the
next request on.
"""

import asyncio
import logging
from uuid import UUID

from django.db import Error
from django.utils.translation import gettext as _

from claude_runner import Grant, Refused, Spending, Upstream
from tenants.context import in_tenant
from tenants.credentials import ModelCredential, credential_for, mark_credential
from tenants.errors import ApiError
from tenants.roles import CredentialState

logger = logging.getLogger("parley.runner")

RETRY_SECONDS = 0.5
MOST_TRIES = 4
SAID = {200: CredentialState.WORKING, 401: CredentialState.REFUSED, 403: CredentialState.REFUSED}


class TurnAccount:
    """Of one turn, or of a process that was warmed up for its conversation's author (`turn` None)."""

    def __init__(self, tenant: UUID, conversation: UUID, author: UUID, turn: UUID | None = None) -> None:
        self.tenant = tenant
        self.conversation = conversation
        self.author = author
        self.turn = turn
        self._states: dict[str, str] = {}

    async def admit(self) -> Grant:
        """One trip. Refused says what is missing; a database that is away for two seconds delays it only."""
        for patience in reversed(range(MOST_TRIES)):
            try:
                return await in_tenant(self.tenant, self._admit)
            except ApiError as error:
                raise Refused(str(error), error.type) from error
            except Error as error:
                logger.warning("The account of %s could not be asked: %s", self.conversation, error)
            if patience:
                await asyncio.sleep(RETRY_SECONDS)
        raise Refused(_("The database did not answer. Send the message again."), "api_error", 503)

    def _admit(self) -> Grant:
        credential = credential_for(self.tenant, self.author)
        self._states[str(credential.id)] = credential.state
        return _grant(credential)

    async def settle(self, grant: Grant, spending: Spending) -> None:
        state = SAID.get(spending.status)
        if state is None or self._states.get(grant.credential) == state:
            return
        try:
            await in_tenant(self.tenant, mark_credential, UUID(grant.credential), state)
            self._states[grant.credential] = state
        except Error as error:
            logger.warning("What a server said to a credential could not be kept: %s", error)


def _grant(credential: ModelCredential) -> Grant:
    upstream = Upstream(credential.kind, credential.base_url, credential.secret)
    return Grant(upstream, str(credential.id))
