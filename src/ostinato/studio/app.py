"""The studio's server: the page, the WebSocket that plays, and the same for programs under /v1 (see `openapi`)."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import PurePath
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from ostinato.generation.recipe import Recipe, from_tags, pack_codes
from ostinato.generation.streaming import Stream
from ostinato.studio import web
from ostinato.studio.engine import Engine, Take
from ostinato.studio.openapi import describe
from ostinato.studio.session import Session
from ostinato.utils.audio import AUDIO_SUFFIXES, pcm16, wav_header

T = TypeVar("T")
TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg"}


def studio(engine: Engine, names: Sequence[str] = ()) -> Starlette:
    """The application; names: see `web.make_app`. It closes the engine when it ends."""

    async def listen(socket: WebSocket) -> None:
        await Session(socket, engine).run()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        engine.close()

    return web.make_app(
        [
            WebSocketRoute("/v1/play", listen),
            Route("/v1/models", Models(engine).get),
            Route("/v1/audio/generations", Audio(engine).generate, methods=["POST"]),
            Route("/v1/audio/stream", Audio(engine).stream, methods=["GET", "POST"]),
            Route("/v1/audio/read", Audio(engine).read, methods=["POST"]),
            Route("/v1/audio/takes/{take}.{suffix}", Audio(engine).take),
            Route("/v1/openapi.json", lambda request: JSONResponse(describe(engine.limits, list(engine.models)))),
            Mount("/", web.static("studio")),
        ],
        names,
        lifespan,
    )


class Models:
    def __init__(self, engine: Engine):
        self.engine = engine

    async def get(self, request: Request) -> Response:
        found = []
        for name, model in self.engine.models.items():
            settings = dataclasses.asdict(model.sampling)
            steps = model.fine.sampling.steps if model.fine else None
            about = {"name": name, "id": self.engine.ids[name], "sample_rate": model.codec.sample_rate}
            found.append(about | {"sampling": settings, "steps": steps})
        return JSONResponse({"models": found, "limits": dataclasses.asdict(self.engine.limits)})


class Audio:
    def __init__(self, engine: Engine):
        self.engine = engine

    async def generate(self, request: Request) -> Response:
        """A clip, whole, as a file."""
        asked = await web.read_json(request)
        suffix = str(asked.pop("format", "wav"))
        check_format(suffix)
        recipe = self.engine.recipe({"seconds": 10.0} | asked if "recipe" not in asked else asked)
        if not (recipe.frames or recipe.samples):
            raise web.Refusal("a clip that is sent whole must end: give seconds, or ask /v1/audio/stream")
        take = await while_there(request, self.whole(recipe))
        return Response(status_code=499) if take is None else await self.file(take, suffix)

    async def whole(self, recipe: Recipe) -> Take:
        async with self.engine.places.take(silent):
            stream, take = await self.engine.begin(recipe)
            async for _ in self.pieces(stream, take):
                pass
        return take

    async def stream(self, request: Request) -> Response:
        """A WAV as it is made, without end unless seconds are given; who hangs up stops it."""
        asked: dict[str, Any]
        if request.method == "POST":
            asked = await web.read_json(request)
        else:
            asked = dict(request.query_params)
            for name, kind in {"seconds": float, "seed": int}.items():
                if name in asked:
                    try:
                        asked[name] = kind(asked[name])
                    except ValueError as error:
                        raise web.Refusal(f"{name} must be a number, got {asked[name][:40]!r}") from error
        recipe = self.engine.recipe(asked)
        rate = self.engine.models[recipe.model].codec.sample_rate
        if len(self.engine.places.queue) >= self.engine.limits.waiting:
            raise web.Refusal(f"{self.engine.limits.waiting} are waiting already; try again in a few minutes", 503)

        async def sound() -> AsyncIterator[bytes]:
            async with self.engine.places.take(silent):
                stream, take = await self.engine.begin(recipe)
                yield wav_header(rate)
                async for pcm in self.pieces(stream, take):
                    yield pcm

        return StreamingResponse(sound(), media_type="audio/wav")

    async def pieces(self, stream: Stream, take: Take) -> AsyncIterator[bytes]:
        last = take.recipe.samples
        while not (last and stream.position >= last):
            position = stream.position
            piece = await self.engine.run(next, stream, None)
            if piece is None:
                return
            pcm = pcm16(piece if not last else piece[:, : last - position])
            await self.engine.run(take.write, position, pcm)
            yield pcm

    async def read(self, request: Request) -> Response:
        """An audio file -> the recipe in its tags, if any, and codes to go on from."""
        data = await web.read_body(request, self.engine.limits.upload)
        suffix = PurePath(request.query_params.get("name", "")).suffix.lower()
        if suffix not in AUDIO_SUFFIXES:
            raise web.Refusal(f"{suffix or 'no suffix'} is not read; {' '.join(sorted(AUDIO_SUFFIXES))} are", 415)
        if not data:
            raise web.Refusal("that file is empty")
        try:
            tags, codes = await self.engine.run(self.engine.read, data, suffix, request.query_params.get("model"))
        except web.Refusal:
            raise
        except web.UserError as error:
            raise web.Refusal("that is not an audio file that can be read: is it whole, and audio?", 422) from error
        recipe: Recipe | None = from_tags(tags)
        title = tags.get("title", "")[: self.engine.limits.prompt]
        return JSONResponse(
            {"recipe": recipe.to_json() if recipe else None, "title": title, "before": pack_codes(codes)}
        )

    async def take(self, request: Request) -> Response:
        suffix = request.path_params["suffix"]
        check_format(suffix)
        return await self.file(self.engine.find(request.path_params["take"]), suffix)

    async def file(self, take: Take, suffix: str) -> Response:
        if not take.samples:
            raise web.Refusal("nothing of that take is there yet", 409)
        data = await self.engine.run(self.engine.file, take, suffix)
        disposition = f'attachment; filename="{file_name(take.recipe.prompt)}.{suffix}"'
        return Response(data, headers={"content-disposition": disposition}, media_type=TYPES[suffix])


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` gives; None, and no more of it is done, once the client has hung up."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait({working})  # the place is free once it has ended
    return None


async def silent(place: int) -> None:
    """For programs, which wait without being told where they stand."""


def check_format(suffix: str) -> None:
    if suffix not in TYPES:
        raise web.Refusal(f"there is no format {suffix[:20]!r} here; there are {', '.join(TYPES)}")


def file_name(prompt: str) -> str:
    """The first words of a prompt, in letters that every system and header takes."""
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in prompt).lower().split()
    return "-".join(words)[:60].strip("-") or "ostinato"
