"""Which part of a conversation a page shows: the latest turns at once, earlier ones when somebody goes there."""

from collections.abc import Iterator

from conversations.events import Wire, all_events, seq_before
from conversations.models import ENDED, Conversation, Turn
from conversations.people import People
from conversations.rendering import Thread

TURNS_AT_ONCE = 20


def latest(conversation: Conversation, people: People) -> tuple[Thread, int]:
    """The latest turns and all that have not ended, and the number of the first one shown; 0 if it is the first."""
    turns = conversation.turns.order_by("-number")
    unfinished = turns.exclude(state__in=ENDED).last()
    window = list(turns[:TURNS_AT_ONCE])
    thread = thread_of(conversation, people)
    if not window:
        return thread, 0
    first = min((window[-1], unfinished or window[-1]), key=lambda turn: turn.number)
    thread.load(_events_from(conversation, first))
    return thread, _is_preceded(first)


def _events_from(conversation: Conversation, first: Turn) -> Iterator[Wire]:
    """All but those of turns before `first`, which one reads past where they are packed."""
    since = seq_before(first)
    before = conversation.turns.filter(number__lt=first.number) if since == 0 else conversation.turns.none()
    left_out = {str(turn) for turn in before.values_list("id", flat=True)}
    return (event for event in all_events(conversation.id, since) if event.get("turn") not in left_out)


def earlier(conversation: Conversation, number: int, people: People) -> tuple[Thread, int]:
    """The turns before turn `number`, as many as a page shows at once, and the number of the first of them."""
    window = list(conversation.turns.filter(number__lt=number).order_by("-number")[:TURNS_AT_ONCE])
    thread = thread_of(conversation, people)
    if not window:
        return thread, 0
    wanted = {str(turn.id) for turn in window}
    events = (e for e in all_events(conversation.id, seq_before(window[-1])) if e.get("turn") in wanted)
    for event in events:
        thread.load([event])
        if len(thread.turns) == len(wanted) and not thread.is_busy:
            break
    return thread, _is_preceded(window[-1])


def thread_of(conversation: Conversation, people: People) -> Thread:
    """The conversation before its first event."""
    thread = Thread(str(conversation.id), conversation.assistant.name, conversation.effective_model, people)
    thread.title = conversation.title
    return thread


def _is_preceded(turn: Turn) -> int:
    return turn.number if turn.number > 1 else 0
