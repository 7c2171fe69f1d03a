"""One listener's WebSocket: music as 16-bit samples one way, JSON and what was heard so far (credit) the other way.

The server makes no more than `AHEAD` seconds beyond what was heard, so a pause holds the generation, not the sound
alone. Steering and forking replace what was sent but not heard yet: {"type": "turn", "from": sample} says from where.
"""

import asyncio
import contextlib
import dataclasses
import time
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from ostinato.generation.recipe import whole
from ostinato.generation.streaming import Stream, Turn
from ostinato.studio.engine import Engine, Pace, Take
from ostinato.studio.web import Refusal, close, parse_json
from ostinato.utils.audio import pcm16
from ostinato.utils.errors import UserError

AHEAD = 8.0  # s made before they are heard: more than a window of a fine stage takes
LEAD, LONGEST_LEAD = 0.4, 4.0  # s that are spare where a change begins, and from what is heard to it at the most
RATE, BURST = 30.0, 120.0  # messages a second that a listener may send, and how many at once


class Session:
    def __init__(self, socket: WebSocket, engine: Engine):
        self.socket, self.engine = socket, engine
        self.heard, self.paused, self.stopped = 0, False, False
        self.changes: list[dict[str, Any]] = []
        self.stir = asyncio.Event()
        self.allowance, self.since = BURST, time.monotonic()

    async def run(self) -> None:
        """Until the music ends or the listener leaves, which frees the place at once."""
        await self.socket.accept()
        maker = None
        try:
            asked = self.parse(await self.socket.receive())
            if asked.get("type") != "start":
                raise Refusal('the first message must be {"type": "start", "prompt": ...}')
            recipe = self.engine.recipe(asked)
            listener = asyncio.ensure_future(self.listen())
            maker = asyncio.ensure_future(self.make(recipe))
            done, _ = await asyncio.wait({listener, maker}, return_when=asyncio.FIRST_COMPLETED)
            self.stopped = True
            for task in {listener, maker} - done:
                task.cancel()
            await asyncio.gather(listener, maker, return_exceptions=True)
            for task in done:
                task.result()
            await self.socket.close()
        except UserError as error:
            await self.say_why(error)
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: sent after the listener had left
            pass

    async def say_why(self, error: Exception) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await close(self.socket, error)

    def parse(self, message: Any) -> dict[str, Any]:
        now = time.monotonic()
        self.allowance = min(BURST, self.allowance + RATE * (now - self.since)) - 1
        self.since = now
        if self.allowance < 0:
            raise Refusal(f"too many messages: at most {RATE:g} a second are taken", 429)
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        if message.get("text") is None:
            raise Refusal("send JSON as text; bytes are not taken")
        return parse_json(message["text"])

    async def listen(self) -> None:
        """Take messages until {"type": "stop"}. Raises Refusal for one that makes no sense."""
        while True:
            message = self.parse(await self.socket.receive())
            kind = message.get("type")
            if "heard" in message:
                self.heard = max(self.heard, whole(message["heard"], "heard"))
            if kind == "stop":
                return
            if kind in ("pause", "resume"):
                self.paused = kind == "pause"
            elif kind == "steer":
                self.engine.check_prompt(message.get("prompt"))
                self.changes.append(message)
            elif kind == "fork":
                whole(message.get("seed"), "seed")
                self.changes.append(message)
            elif kind != "heard":
                raise Refusal(f"there is no message of type {str(kind)[:40]!r}")
            if len(self.changes) > 20:
                raise Refusal("too many changes at once; wait until one is playing", 429)
            self.stir.set()

    async def make(self, recipe: Any) -> None:
        async def tell(place: int) -> None:
            await self.socket.send_json({"type": "queue", "place": place})

        async with self.engine.places.take(tell):
            stream, take = await self.engine.begin(recipe)
            about = {"rate": take.rate, "take": take.id, "recipe": recipe.to_json()}
            about["before"] = stream.begins * stream.model.codec.hop
            await self.socket.send_json({"type": "begin"} | about)
            await self.pieces(stream, take)
            await self.socket.send_json({"type": "end", "samples": stream.position, "recipe": self.done(take)})

    def done(self, take: Take) -> dict[str, Any]:
        return dataclasses.replace(take.recipe, samples=take.samples).to_json()

    async def pieces(self, stream: Stream, take: Take) -> None:
        pace, told = Pace(), 0.0
        last = take.recipe.samples  # of a take that is made again; 0: to its end
        while not (last and stream.position >= last):
            await self.credit(stream, take.rate)
            while self.changes:
                await self.change(self.changes.pop(0), stream, take, pace.speed)
                last = 0
            position, began = stream.position, time.monotonic()
            piece = await self.engine.run(next, stream, None)
            if piece is None:
                return
            pcm = pcm16(piece if not last else piece[:, : last - position])
            pace.add(piece.shape[-1] / take.rate, time.monotonic() - began)
            await self.engine.run(take.write, position, pcm)
            await self.socket.send_bytes(pcm)
            if (now := time.monotonic()) - told > 0.5:
                told = now
                await self.socket.send_json({"type": "pace", "speed": round(pace.speed, 3)})

    async def credit(self, stream: Stream, rate: int) -> None:
        """Wait until more may be made."""
        while not self.changes and (self.paused or stream.position - self.heard > AHEAD * rate):
            self.stir.clear()
            try:
                await asyncio.wait_for(self.stir.wait(), self.engine.limits.paused)
            except TimeoutError as error:
                raise Refusal("nothing was played for a long time, so your place was released; start again") from error

    async def change(self, asked: dict[str, Any], stream: Stream, take: Take, speed: float) -> None:
        """Where it begins: as soon as its sound can be there by the time it is to be heard, at this speed."""
        work = stream.wait / speed if speed else LONGEST_LEAD
        lead = min(LONGEST_LEAD, stream.lookahead / stream.model.codec.frame_rate + work + LEAD)
        at = min(self.heard + round(lead * take.rate), stream.made * stream.model.codec.hop)
        if asked["type"] == "steer":
            turn: Turn = await self.engine.run(stream.steer, asked["prompt"], at)
        else:
            turn = await self.engine.run(stream.reseed, asked["seed"], at)
        take.recipe = dataclasses.replace(take.recipe, turns=tuple(stream.turns))
        if stream.position < take.samples:
            await self.engine.run(take.write, stream.position, b"")
        about = dataclasses.asdict(turn) | {"sample": turn.frame * stream.model.codec.hop}
        await self.socket.send_json({"type": "turn", "from": stream.position, "recipe": self.done(take)} | about)
