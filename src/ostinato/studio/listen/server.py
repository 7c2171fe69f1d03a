"""The server of a listening test: one page, a few calls of JSON, and clips under names that say nothing.

What a browser is sent never names a system. A clip is found by its id among those of the listener who asks, never by a
path; ids are of one listener alone.
"""

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route

from ostinato.studio import web
from ostinato.studio.listen.ballots import Ballots, Session
from ostinato.studio.listen.manifest import SCALES, ListeningTest, read_test
from ostinato.studio.web import Refusal, read_json

COOKIE_SECONDS = 90 * 86_400
CACHED = {"cache-control": "private, max-age=86400"}


def listen_app(folder: Path, names: tuple[str, ...] = ()) -> Starlette:
    """The application of the test in `folder`. names: host names it is reached by (`web.make_app`). Raises UserError
    where there is no test, or its database cannot be opened."""
    test = read_test(folder)
    ballots = Ballots(folder, test)
    server = Server(folder, test, ballots)

    @asynccontextmanager
    async def lifespan(app: Starlette):  # type: ignore[no-untyped-def]
        yield
        ballots.close()

    routes = [
        Route("/api/state", server.state),
        Route("/api/begin", server.begin, methods=["POST"]),
        Route("/api/headphones", server.headphones, methods=["POST"]),
        Route("/api/heard", server.heard, methods=["POST"]),
        Route("/api/rating", server.rating, methods=["POST"]),
        Route("/api/page", server.page, methods=["POST"]),
        Route("/api/withdraw", server.withdraw, methods=["POST"]),
        Route("/clips/{clip}", server.clip),
        Route("/check/{name}", server.check),
        Mount("/", web.static("listen")),
    ]
    return web.make_app(routes, names, lifespan)


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8000, names: tuple[str, ...] = ()) -> None:
    """Serve the test in `folder` until interrupted. Raises UserError as `listen_app`, and where it cannot listen."""
    web.serve(listen_app(folder, names), host, port, "Listening test")


class Server:
    """The handlers of a test."""

    def __init__(self, folder: Path, test: ListeningTest, ballots: Ballots):
        self.clips, self.test, self.ballots = folder / "clips", test, ballots
        self.cookie = f"listener-{test.id}"  # cookies know no ports: two tests of one machine would share a name

    async def session(self, request: Request) -> Session:
        """The listener who asks. Raises Refusal (401) for nobody we know."""
        found = await run_in_threadpool(self.ballots.find, request.cookies.get(self.cookie))
        if found is None:
            raise Refusal("this browser has not begun the test, or its answers are deleted: load the page again", 401)
        return found

    async def state(self, request: Request) -> Response:
        """Where the listener is, and all that the page needs."""
        found = await run_in_threadpool(self.ballots.find, request.cookies.get(self.cookie))
        return JSONResponse({"test": about(self.test), "state": state_of(self.test, found)})

    async def begin(self, request: Request) -> Response:
        """A listener consents. One who comes again goes on where they were, but with "another": true."""
        asked = await read_json(request)
        if asked.get("consent") is not True:
            raise Refusal("the test begins once you agree to take part")
        token = request.cookies.get(self.cookie)
        session = await run_in_threadpool(self.ballots.find, token)
        if session is None or (asked.get("another") is True and session.finished):
            token = await run_in_threadpool(self.ballots.begin)
            session = await run_in_threadpool(self.ballots.find, token)
        response = JSONResponse({"state": state_of(self.test, session)})
        response.set_cookie(
            self.cookie,
            token or "",
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def headphones(self, request: Request) -> Response:
        asked, session = await read_json(request), await self.session(request)
        answers = asked.get("answers")
        right = isinstance(answers, list) and all(type(a) is int and 0 <= a <= 2 for a in answers)
        if not right or len(answers) != len(self.test.trials):  # type: ignore[arg-type]
            raise Refusal(f"send the {len(self.test.trials)} answers of the headphone check, each 0, 1 or 2")
        await run_in_threadpool(self.ballots.check_headphones, session, answers)  # type: ignore[arg-type]
        return await self.moved(request)

    async def heard(self, request: Request) -> Response:
        asked, session = await read_json(request), await self.session(request)
        await run_in_threadpool(self.ballots.note_heard, session, text(asked, "clip"), number(asked, "share"))
        return JSONResponse({"saved": True})

    async def rating(self, request: Request) -> Response:
        asked, session = await read_json(request), await self.session(request)
        self.past_checks(session)
        mark = text(asked, "clip"), text(asked, "scale"), number(asked, "value")
        await run_in_threadpool(self.ballots.rate, session, *mark)
        return JSONResponse({"saved": True})

    async def page(self, request: Request) -> Response:
        asked, session = await read_json(request), await self.session(request)
        if type(asked.get("page")) is not int:
            raise Refusal("say which page is filled in: {'page': 0}")
        await run_in_threadpool(self.ballots.submit, session, asked["page"])
        return await self.moved(request)

    async def withdraw(self, request: Request) -> Response:
        await read_json(request)
        await run_in_threadpool(self.ballots.withdraw, await self.session(request))
        response = JSONResponse({"state": state_of(self.test, None)})
        response.delete_cookie(self.cookie, httponly=True, samesite="strict")
        return response

    async def moved(self, request: Request) -> Response:
        return JSONResponse({"state": state_of(self.test, await self.session(request))})

    def past_checks(self, session: Session) -> None:
        if self.test.trials and session.headphones is None:
            raise Refusal("the headphone check comes first", 409)

    async def clip(self, request: Request) -> Response:
        """The sound of one of the listener's own clips."""
        session, asked = await self.session(request), request.path_params["clip"]
        file = next((c.file for page in session.pages for c in page.clips if c.id == asked), None)
        if file is None:
            raise Refusal("there is no such clip among yours", 404)
        return FileResponse(self.clips / file, media_type="audio/flac", headers=CACHED)

    async def check(self, request: Request) -> Response:
        """The sounds of the headphone check: volume, 0, 1, ..."""
        await self.session(request)
        sounds = {"volume": self.test.volume} | {str(i): trial.file for i, trial in enumerate(self.test.trials)}
        file = sounds.get(request.path_params["name"])
        if file is None:
            raise Refusal("there is no such sound", 404)
        return FileResponse(self.clips / file, media_type="audio/flac", headers=CACHED)


def about(test: ListeningTest) -> dict[str, Any]:
    """What every listener may know of a test."""
    return {
        "title": test.title,
        "mode": test.mode,
        "consent": list(test.consent),
        "scales": [{"name": name, "definition": definition} for name, definition in SCALES.items()],
        "heard_in_full": test.heard_in_full,
        "attention": any(s.beeps is not None for s in test.stimuli),
        "trials": len(test.trials),
    }


def state_of(test: ListeningTest, session: Session | None) -> dict[str, Any]:
    """Where a listener is: stage consent, headphones, page or thanks; of a page its prompt, clips and marks."""
    if session is None:
        return {"stage": "consent"}
    if test.trials and session.headphones is None:
        return {"stage": "headphones"}
    number = session.current
    if number == len(session.pages):
        return {"stage": "thanks"}
    page = session.pages[number]
    clips = [{"id": c.id, "heard": c.heard, "ratings": c.ratings} for c in page.clips]
    prompt = test.prompts[page.prompt].text
    return {"stage": "page", "page": number, "pages": len(session.pages), "prompt": prompt, "clips": clips}


def text(asked: dict[str, Any], key: str) -> str:
    if not isinstance(asked.get(key), str):
        raise Refusal(f"{key} must be a text")
    return asked[key]


def number(asked: dict[str, Any], key: str) -> float:
    if isinstance(asked.get(key), bool) or not isinstance(asked.get(key), int | float):
        raise Refusal(f"{key} must be a number")
    if not 0 <= asked[key] <= 5:  # no mark or share is more, and infinity is neither
        raise Refusal(f"{key} must be from 0 to 5")
    return float(asked[key])
