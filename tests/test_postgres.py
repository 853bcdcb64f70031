"""R20 with a real database: a pool whose connection is never given back."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

import lastly

CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pool'"


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {}), ("asyncio", {"use_uvloop": True})],
    ids=["asyncio", "uvloop"],
)
async def test_a_pool_that_would_wait_for_ever_is_terminated(
    manager: lastly.ShutdownManager, postgres: str
) -> None:
    """R20: pool.close() waits for a connection that nobody releases; terminate() ends them all."""
    watcher = await asyncpg.connect(postgres)
    pool = await asyncpg.create_pool(
        postgres, min_size=3, max_size=3, server_settings={"application_name": "pool"}
    )
    await pool.acquire()  # and never released
    assert await watcher.fetchval(CONNECTIONS) == 3
    manager.defer(watcher.close, name="watcher")
    manager.defer(gone, watcher, timeout=30)
    handle = manager.defer(pool.close, timeout=0.05, on_timeout=pool.terminate)
    with pytest.raises(lastly.CleanupTimeout) as caught:
        await manager.aclose()
    assert [outcome.status for outcome in manager.last_report().outcomes] == [
        "timed_out",
        "ok",
        "ok",
    ]
    assert caught.value.name == handle.name == "Pool.close"
    # The picture leads through the gathered tasks to the holder that waits.
    assert "in Pool.close: await asyncio.gather(" in str(caught.value)
    assert "in PoolConnectionHolder.wait_until_released" in str(caught.value)


async def gone(watcher: asyncpg.Connection) -> None:
    """Wait until the server shows no connection of the pool's any more."""
    while await watcher.fetchval(CONNECTIONS):
        await asyncio.sleep(0)
