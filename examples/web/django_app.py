"""Django, whose ASGI app has no lifespan, in a middleware that gives it one.

DATABASE_URL=postgresql:///test gunicorn -k uvicorn_worker.UvicornWorker django_app:app
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

import lastly
from lastly.contrib.asgi import Lifespan


@asynccontextmanager
async def lifespan(app: object) -> AsyncGenerator[dict[str, Any]]:
    async with lastly.lifespan(app):
        pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1)
        lastly.defer(print, "closed the pool")
        lastly.defer(pool.close, timeout=5, on_timeout=pool.terminate)
        yield {"pool": pool}


async def answer(request: Any) -> HttpResponse:
    pool = request.scope["state"]["pool"]
    return HttpResponse(await pool.fetchval("SELECT 42"))


urlpatterns = [path("", answer)]
settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__)

app = Lifespan(get_asgi_application(), lifespan)
