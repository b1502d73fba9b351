"""A connection's brake, without a server."""

import asyncio

import pytest

from conversations.flow import EXTENSION, Flow, StalledReader, flow_of


async def test_without_a_server_nobody_waits() -> None:
    flow = flow_of({"type": "websocket"})
    await flow.drained()
    assert not flow.stalled
    assert not flow.closing.is_set()


async def test_the_flow_in_the_scope_is_the_servers() -> None:
    flow = Flow()
    assert flow_of({"extensions": {EXTENSION: flow}}) is flow


async def test_drained_waits_while_the_transport_is_full() -> None:
    flow = Flow()
    flow.pause()
    waiting = asyncio.create_task(flow.drained())
    await asyncio.sleep(0)
    assert flow.stalled
    assert not waiting.done()
    flow.resume()
    await waiting
    assert not flow.stalled


async def test_a_reader_that_takes_nothing_is_aborted_once() -> None:
    aborted: list[bool] = []
    flow = Flow(patience=0.01, abort=lambda: aborted.append(True))
    flow.pause()
    flow.pause()
    with pytest.raises(StalledReader):
        await flow.drained()
    flow.stop()
    flow.pause()
    await asyncio.sleep(0.03)
    assert aborted == [True]
    assert flow.gone


async def test_patience_starts_anew_whenever_the_reader_has_caught_up() -> None:
    aborted: list[bool] = []
    flow = Flow(patience=0.1, abort=lambda: aborted.append(True))
    for _ in range(4):
        flow.pause()
        await asyncio.sleep(0.05)
        flow.resume()
    await flow.drained()
    assert not aborted


async def test_a_connection_that_ends_frees_who_waits() -> None:
    flow = Flow()
    flow.pause()
    waiting = asyncio.create_task(flow.drained())
    await asyncio.sleep(0)
    flow.stop()
    await waiting
