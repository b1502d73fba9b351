"""Who pays for a turn's requests to the model: the credential that its author may use, looked up for each one.

The engine asks through `claude_runner.Account`, outside the sandbox; what was revoked counts no more from the
next request on. So with budgets: requests that are under way when one is used up are still answered, so that a
tenant may overshoot by what all its conversations have in flight at that moment.
"""

import asyncio
import logging
from uuid import UUID

from django.db import Error
from django.utils.translation import gettext as _

from claude_runner import Grant, Refused, Spending, Upstream
from conversations.ledger import Payer, keep, used_up
from tenants.context import in_tenant
from tenants.credentials import ModelCredential, credential_for, mark_credential
from tenants.errors import ApiError, InvalidRequest
from tenants.roles import CredentialState
from tenants.upstreams import addresses_of

logger = logging.getLogger("parley.runner")

RETRY_SECONDS = 0.5
MOST_TRIES = 4
MOST_SETTLINGS = 120
SAID = {200: CredentialState.WORKING, 401: CredentialState.REFUSED, 403: CredentialState.REFUSED}


class TurnAccount:
    """Of one turn, or of a process that was warmed up for its conversation's author (`turn` None)."""

    def __init__(self, tenant: UUID, conversation: UUID, author: UUID, turn: UUID | None = None) -> None:
        self.tenant = tenant
        self.conversation = conversation
        self.author = author
        self.turn = turn
        self._opened: dict[Grant, ModelCredential] = {}

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
        if why := used_up(credential.tenant):
            raise Refused(why, "billing_error", 402)
        grant = Grant(
            Upstream(credential.kind, credential.base_url, credential.secret),
            str(credential.id),
            frozenset(credential.tenant.allowed_models),
        )
        self._opened[grant] = credential
        return grant

    async def settle(self, grant: Grant, spending: Spending) -> None:
        """One trip, tried again for a minute: what is not entered is missing in the month's sum."""
        credential = self._opened[grant]
        state = SAID.get(spending.status)
        news = state if state != credential.state else None
        if news is None and spending.tokens is None:
            return
        for _try in range(MOST_SETTLINGS):
            try:
                await in_tenant(self.tenant, self._settle, credential, spending, news)
                return
            except Error as error:
                logger.warning("What a request came to could not be entered, trying again: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
        logger.error("Not in the ledger of tenant %s: %s", self.tenant, spending)

    def _settle(self, credential: ModelCredential, spending: Spending, state: CredentialState | None) -> None:
        payer = Payer(self.tenant, self.conversation, self.turn, self.author, credential.id, credential.kind)
        keep(payer, spending)
        if state is not None:
            mark_credential(credential, state)


def model_addresses_of(host: str, port: int) -> list[str]:
    """What the engine asks for each connection to a model's server. Blocks; OSError says why there is none."""
    try:
        return addresses_of(host, port)
    except InvalidRequest as error:
        raise OSError(str(error)) from error
