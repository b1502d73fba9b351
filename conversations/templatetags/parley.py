"""Tags and filters of the pages: icons, and texts of others made inert."""

from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince
from django.utils.translation import gettext, ngettext

from conversations.markdown import visible as make_visible

register = template.Library()

CENT = Decimal("0.01")


@register.simple_tag
@cache
def icon(name: str) -> SafeString:
    """An icon of the sprite, hidden from screen readers: the text beside it says what it means."""
    return format_html(
        '<svg class="icon" aria-hidden="true"><use href="{}#{}"></use></svg>',
        static("vendor/lucide/sprite.svg"),
        name,
    )


@register.filter
def visible(text: Any) -> str:
    """Terminal codes and bidirectional controls as harmless signs."""
    return make_visible(str(text))


@register.filter
def moment(at: str) -> datetime | None:
    """A point in time as events carry it."""
    return parse_datetime(at)


@register.filter
def duration(milliseconds: float | None) -> str:
    """A length of time in words as short as its size allows: 340 ms, 2.4 s, 3 min 20 s."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return gettext("%d ms") % milliseconds
    if milliseconds < 60_000:
        return gettext("%.1f s") % (milliseconds / 1000)
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    return gettext("%(minutes)d min %(seconds)d s") % {"minutes": minutes, "seconds": seconds}


@register.filter
def last_used(at: datetime) -> str:
    """How long ago that was."""
    if timezone.now() - at < timedelta(minutes=1):
        return gettext("used just now")
    return gettext("used %s ago") % timesince(at)


@register.filter
def dollars(cost: float | None) -> str:
    """A cost in US dollars, with the digits that matter; '' where nothing was paid."""
    if not cost:
        return ""
    return f"${cost:.2f}" if cost >= 0.1 else f"${cost:.4f}"


@register.filter
def money(cost: Decimal) -> str:
    """A sum of US dollars to the cent, as columns and budgets have it."""
    return "<$0.01" if 0 < cost < CENT else f"${cost:,.2f}"


@register.filter
def thousands(number: int) -> str:
    return f"{number:,}"


@register.filter
def words(text: str) -> str:
    """How long a text is."""
    count = len(text.split())
    return ngettext("%d word", "%d words", count) % count
