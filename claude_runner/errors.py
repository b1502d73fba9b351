"""Faults of the engine, as one tree.

EngineError
├── SandboxUnavailable   the wanted tier can't be had on this machine
├── CliMissing           there is no Claude Code CLI to start
├── StartFailed          the process did not come up
├── NoRoom               every process of this host is busy
└── Busy                 the conversation has a turn already
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
