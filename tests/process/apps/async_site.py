"""Asynchronous handlers that publish: directly, in a thread, in an executor."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from shop import noop

app = FastAPI()


@app.get("/publish")
@app.get("/directly")
async def directly():
    return noop.delay().id


@app.get("/in_thread")
async def in_thread():
    await asyncio.sleep(0.1)
    return (await asyncio.to_thread(noop.delay)).id


@app.get("/in_executor")
async def in_executor():
    await asyncio.sleep(0.1)
    loop = asyncio.get_running_loop()
    return (await loop.run_in_executor(None, noop.delay)).id
