"""Faults of the engine, as one tree.

EngineError
├── SandboxUnavailable   the wanted tier can't be had on this machine
├── CliMissing           there is no Claude Code CLI to start
├── StartFailed          the process did not come up
├── NoRoom               every process of this host is busy, or its disk is full
├── Busy                 the conversation has a turn already
└── Refused              the account does not let a request go to the model
"""


class EngineError(Exception):
    """A sentence for the person in `str(error)`; `type` as in the Messages API's errors."""

    type = "api_error"


class SandboxUnavailable(EngineError):
    pass


class CliMissing(EngineError):
    pass


class StartFailed(EngineError):
    pass


class Busy(EngineError):
    type = "invalid_request_error"


class NoRoom(EngineError):
    type = "overloaded_error"


class Refused(EngineError):
    """`status` is what the CLI is answered: one at which it does not try again."""

    def __init__(self, message: str, type: str = "permission_error", status: int = 403) -> None:
        super().__init__(message)
        self.type = type
        self.status = status
