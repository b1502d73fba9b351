"""What a load balancer or an operator asks without signing in: does the process live, can it do its work."""

import asyncio
from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from redis.asyncio import Redis
from redis.exceptions import RedisError

from conversations.flow import flow_of
from conversations.hosts import live_hosts
from conversations.models import RunnerHost
from tenants.context import across_tenants

PATIENCE = 2.0


@never_cache
async def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@never_cache
async def ready(request: HttpRequest) -> JsonResponse:
    """200, with the weakest sandbox among the runners; or 503 and the names of what is missing."""
    hosts, redis_answers = await asyncio.gather(_hosts(), _redis_answers())
    missing = _missing_of(hosts)
    if not redis_answers:
        missing.append("redis")
    if flow_of(request.scope).closing.is_set():  # type: ignore[attr-defined]  # an ASGI request
        missing.append("draining")
    if missing:
        return JsonResponse({"status": "unavailable", "missing": missing}, status=503)
    return JsonResponse({"status": "ready", "sandbox": _sandbox(hosts or [])})


def _missing_of(hosts: list[RunnerHost] | None) -> list[str]:
    if hosts is None:
        return ["database"]
    if not hosts:
        return ["runner"]
    hosts = [host for host in hosts if not host.refuses]
    if not hosts:
        return ["sandbox"]
    return [] if any(host.cli_version for host in hosts) else ["cli"]


def _sandbox(hosts: list[RunnerHost]) -> dict[str, Any]:
    """The tier of the runner that has most to say against its own."""
    weakest = max(hosts, key=lambda host: len(host.tier_reason))
    return {"tier": weakest.tier, "reason": weakest.tier_reason}


async def _hosts() -> list[RunnerHost] | None:
    try:
        async with asyncio.timeout(PATIENCE):
            return await across_tenants(live_hosts)
    except (DatabaseError, OSError):  # TimeoutError is an OSError
        return None


async def _redis_answers() -> bool:
    redis = Redis.from_url(
        settings.REDIS_URL or "redis://127.0.0.1:6379",
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
    )
    try:
        return bool(await redis.ping())
    except (RedisError, OSError):
        return False
    finally:
        await redis.aclose()
