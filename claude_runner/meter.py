"""What a turn waited for the model, and how the model last refused."""

from dataclasses import dataclass
from time import monotonic


@dataclass(frozen=True, slots=True)
class Refusal:
    """How the last request was refused. `status` 0: nobody was there; `ours`: the account said it."""

    status: int
    type: str
    message: str
    ours: bool = False


class Meter:
    """What a turn waited for the model. Times in seconds; requests that overlap count once."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._busy_since = 0.0
        self.begin_turn()

    def begin_turn(self) -> None:
        self.busy = 0.0
        self.first_byte: float | None = None
        self.refusal: Refusal | None = None
        self._busy_since = monotonic()

    def start(self) -> None:
        if not self.in_flight:
            self._busy_since = monotonic()
        self.in_flight += 1

    def stop(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self.busy += monotonic() - self._busy_since

    def answered(self) -> None:
        if self.first_byte is None:
            self.first_byte = monotonic() - self._busy_since
