"""The answers: one SQLite file in WAL mode. A call that changes anything returns once it is on the disk."""

import hashlib
import secrets
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ostinato.studio.listen.assignment import assign
from ostinato.studio.listen.manifest import LIKERT, SCALES, ListeningTest
from ostinato.studio.web import Refusal
from ostinato.utils.errors import UserError

AWAY_SECONDS = 3600.0  # who has not been seen for so long may not come back: their open pages count no more
ALL_HEARD = 0.95  # share of a clip: players tell their position a few times a second
TABLES = """
CREATE TABLE IF NOT EXISTS test (id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT UNIQUE NOT NULL, started TEXT NOT NULL, seen REAL NOT NULL,
    finished TEXT, headphones INTEGER);
CREATE TABLE IF NOT EXISTS pages (
    session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE, page INTEGER NOT NULL, prompt INTEGER NOT NULL,
    submitted TEXT, PRIMARY KEY (session, page));
CREATE TABLE IF NOT EXISTS clips (
    id TEXT PRIMARY KEY, session INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE, page INTEGER NOT NULL,
    position INTEGER NOT NULL, file TEXT NOT NULL, heard REAL NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS clips_of ON clips (session, page, position);
CREATE TABLE IF NOT EXISTS ratings (
    clip TEXT NOT NULL REFERENCES clips ON DELETE CASCADE, scale TEXT NOT NULL, value REAL NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (clip, scale));
"""


@dataclass
class Clip:
    """A clip as one listener has it: an id that says nothing, the file, the share that was heard, marks by scale."""

    id: str
    file: str
    heard: float
    ratings: dict[str, float] = field(default_factory=dict)


@dataclass
class Page:
    prompt: int
    submitted: str | None
    clips: list[Clip]


@dataclass
class Session:
    """One listener, by number. headphones: right answers of the check, None before it."""

    number: int
    started: str
    finished: str | None
    headphones: int | None
    pages: list[Page]

    @property
    def current(self) -> int:
        """The page to fill in; the number of pages when all are."""
        return next((i for i, page in enumerate(self.pages) if page.submitted is None), len(self.pages))


class Ballots:
    """The database of one test. Safe to use from several threads."""

    def __init__(self, folder: Path, test: ListeningTest):
        """Open TEST/ratings.db, made where there is none. Raises UserError where it cannot be, or is another test's."""
        self.test, self.path, self.lock = test, folder / "ratings.db", threading.Lock()
        self.stimuli = {s.file: s for s in test.stimuli}
        try:
            self.db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")  # in WAL mode, less may lose what was acknowledged
            self.db.execute("PRAGMA foreign_keys=ON")
            self.db.execute("PRAGMA secure_delete=ON")  # what a listener takes back is overwritten
            self.db.executescript(TABLES)
            self.db.execute("INSERT INTO test SELECT ? WHERE NOT EXISTS (SELECT 1 FROM test)", (test.id,))
            (found,) = self.db.execute("SELECT id FROM test").fetchone()
        except sqlite3.Error as error:
            raise UserError(f"cannot open {self.path} ({error}): can the folder be written?") from error
        if found != test.id:
            raise UserError(f"{self.path} holds the ratings of another test: move it away, or use its own test")

    def close(self) -> None:
        with self.lock:
            self.db.close()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, on the disk when it is left. Raises Refusal (503) where the disk does not take it."""
        with self.lock:
            try:
                self.db.execute("BEGIN IMMEDIATE")
                try:
                    yield self.db
                    self.db.execute("COMMIT")
                finally:
                    if self.db.in_transaction:  # an error in between, or a full disk
                        self.db.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise Refusal(f"your answer could not be saved ({error}); it will be tried again", 503) from error

    def begin(self) -> str:
        """A new listener, who has consented, with the pages that are theirs; returns the token they come back with."""
        token = secrets.token_urlsafe(24)
        with self.writing() as db:
            cursor = db.execute(
                "INSERT INTO sessions (token, started, seen) VALUES (?, ?, ?)", (digest(token), now(), time.time())
            )
            number = cursor.lastrowid
            heard: Counter[tuple[int, tuple[int, ...]]] = Counter()
            for prompt, files in db.execute(
                "SELECT prompt, group_concat(file) FROM pages JOIN sessions ON session = number JOIN clips USING "
                "(session, page) WHERE submitted IS NOT NULL OR seen > ? GROUP BY session, page",
                (time.time() - AWAY_SECONDS,),
            ):
                shown = [self.stimuli[file] for file in files.split(",")]
                heard[prompt, tuple(sorted(s.system for s in shown if s.beeps is None))] += 1
            for i, page in enumerate(assign(self.test, heard, np.random.default_rng([self.test.seed, number or 0]))):
                db.execute("INSERT INTO pages (session, page, prompt) VALUES (?, ?, ?)", (number, i, page.prompt))
                rows = [(secrets.token_hex(8), number, i, k, file) for k, file in enumerate(page.files)]
                db.executemany("INSERT INTO clips (id, session, page, position, file) VALUES (?, ?, ?, ?, ?)", rows)
        return token

    def find(self, token: str | None) -> Session | None:
        """The listener of a token; None of an unknown one."""
        if not token:
            return None
        with self.lock:
            row = self.db.execute("SELECT number FROM sessions WHERE token = ?", (digest(token),)).fetchone()
            return self._session(row[0]) if row else None

    def everyone(self) -> list[Session]:
        """All listeners, in the order they began."""
        with self.lock:
            numbers = self.db.execute("SELECT number FROM sessions ORDER BY number").fetchall()
            return [self._session(number) for (number,) in numbers]

    def _session(self, number: int) -> Session:
        db = self.db
        started, finished, headphones = db.execute(
            "SELECT started, finished, headphones FROM sessions WHERE number = ?", (number,)
        ).fetchone()
        pages = [
            Page(prompt, submitted, [])
            for prompt, submitted in db.execute(
                "SELECT prompt, submitted FROM pages WHERE session = ? ORDER BY page", (number,)
            )
        ]
        clips: dict[str, Clip] = {}
        for id, page, file, heard in db.execute(
            "SELECT id, page, file, heard FROM clips WHERE session = ? ORDER BY page, position", (number,)
        ):
            clips[id] = Clip(id, file, heard)
            pages[page].clips.append(clips[id])
        for clip, scale, value in db.execute(
            "SELECT clip, scale, value FROM ratings JOIN clips ON clip = id WHERE session = ?", (number,)
        ):
            clips[clip].ratings[scale] = value
        return Session(number, started, finished, headphones, pages)

    def check_headphones(self, session: Session, answers: list[int]) -> None:
        """Keep how many answers of the headphone check are right; the first time counts."""
        right = sum(trial.answer == answer for trial, answer in zip(self.test.trials, answers, strict=True))
        with self.writing() as db:
            db.execute(
                "UPDATE sessions SET headphones = ?, seen = ? WHERE number = ? AND headphones IS NULL",
                (right, time.time(), session.number),
            )

    def note_heard(self, session: Session, clip: str, share: float) -> None:
        """Keep the share of a clip that was played, where it is more than before. Raises Refusal for a strange clip."""
        open_clip(session, clip)
        with self.writing() as db:
            db.execute("UPDATE clips SET heard = max(heard, ?) WHERE id = ?", (min(share, 1.0), clip))
            db.execute("UPDATE sessions SET seen = ? WHERE number = ?", (time.time(), session.number))

    def rate(self, session: Session, clip: str, scale: str, value: float) -> None:
        """Keep a mark, in place of an earlier one. With pairs, value is 1 where the clip is preferred, 0 where the
        other is, 0.5 for neither. Raises Refusal for a clip of no open page, a strange scale or value, and one that was
        not heard where that is asked."""
        page, rated = open_clip(session, clip)
        if scale not in SCALES:
            raise Refusal(f"no scale {scale[:40]!r}: there are {', '.join(SCALES)}")
        pairs = self.test.mode == "pairs"
        if value not in ((0, 0.5, 1) if pairs else LIKERT):
            raise Refusal(f"a mark is {'0, 0.5 or 1' if pairs else 'a whole number from 1 to 5'}, not {value:g}")
        marks = [(c, value if c is rated else 1 - value) for c in (page.clips if pairs else [rated])]
        if self.test.heard_in_full and any(c.heard < ALL_HEARD for c, _ in marks):
            raise Refusal("a clip can be rated once it has been played to its end", 409)
        with self.writing() as db:
            db.executemany(
                "INSERT INTO ratings VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, at = "
                "excluded.at WHERE value <> excluded.value",
                [(c.id, scale, mark, now()) for c, mark in marks],
            )
            db.execute("UPDATE sessions SET seen = ? WHERE number = ?", (time.time(), session.number))

    def submit(self, session: Session, number: int) -> None:
        """Close a page; the last one ends the session. A page that is closed already stays so. Raises Refusal for a
        page that is not the open one, or with marks missing."""
        if 0 <= number < session.current:
            return  # a browser that did not hear of it asks again
        if number != session.current or number >= len(session.pages):
            raise Refusal(f"page {number} is not the one to fill in", 409)
        missing = sum(len(SCALES) - len(clip.ratings) for clip in session.pages[number].clips)
        if missing:
            raise Refusal(f"{missing} marks of this page are missing", 409)
        last = number == len(session.pages) - 1
        with self.writing() as db:
            db.execute("UPDATE pages SET submitted = ? WHERE session = ? AND page = ?", (now(), session.number, number))
            db.execute(
                "UPDATE sessions SET seen = ?, finished = ? WHERE number = ?",
                (time.time(), now() if last else None, session.number),
            )

    def withdraw(self, session: Session) -> None:
        """Delete a listener and all their answers."""
        with self.writing() as db:
            db.execute("DELETE FROM sessions WHERE number = ?", (session.number,))


def open_clip(session: Session, clip: str) -> tuple[Page, Clip]:
    """A clip of the page to fill in. Raises Refusal for any other."""
    if session.current < len(session.pages):
        page = session.pages[session.current]
        for found in page.clips:
            if found.id == clip:
                return page, found
    raise Refusal(f"no clip {clip[:40]!r} on the page to fill in", 404)


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
