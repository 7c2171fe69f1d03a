"""The table of listening networks, and how their weights are fetched: from a server on this machine."""

import hashlib
import math
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ostinato.evaluation.networks import base as listeners
from ostinato.evaluation.networks.base import LISTENERS, cut, each_window, fetch_weights, load_listener, peak_normalised
from ostinato.utils.errors import UserError

WEIGHTS = bytes(range(256)) * 9000
DIGEST = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which its files are to be had."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    (tmp_path / "published").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "published")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "published", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_and_held_against_their_digest(served, tmp_path):
    published, address = served
    (published / "net.pt").write_bytes(WEIGHTS)
    for number, sha256 in enumerate((DIGEST, DIGEST[:8], "")):
        folder = tmp_path / f"cache{number}"
        path = fetch_weights(f"{address}/net.pt", sha256, folder)
        assert path.read_bytes() == WEIGHTS and path.parent == folder
        assert (folder / "net.pt.sha256").exists() == (not sha256)  # pinned where nobody states a digest
        assert fetch_weights("http://127.0.0.1:9/net.pt", sha256, folder) == path  # nothing is asked again
        path.write_bytes(WEIGHTS + b"!")
        with pytest.raises(UserError, match=r"has sha256 .*, not"):
            fetch_weights(f"{address}/net.pt", sha256, folder)


def test_wrong_weights_are_not_kept(served, tmp_path):
    published, address = served
    (published / "net.pt").write_bytes(b"<html>")
    with pytest.raises(UserError, match="try again"):
        fetch_weights(f"{address}/net.pt", DIGEST, tmp_path / "cache")
    with pytest.raises(UserError, match=r"could not fetch .*not found"):
        fetch_weights(f"{address}/absent.pt", "", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_offline_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    def no_network(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(listeners.urllib.request, "urlopen", no_network)
    for name, source in LISTENERS.items():
        with pytest.raises(UserError) as raised:
            load_listener(name)
        if not source.url:
            assert f"write {name}:PATH" in str(raised.value)
            continue
        place = tmp_path / "hub" / "checkpoints" / source.url.rsplit("/", 1)[-1]
        assert source.url in str(raised.value) and f"put it at {place}" in str(raised.value)


def test_names(tmp_path):
    with pytest.raises(UserError, match="did you mean 'openl3'"):
        load_listener("openL3")
    with pytest.raises(UserError, match=r"no weights .* for clap"):
        load_listener(f"clap:{tmp_path / 'absent.pt'}")
    for name, source in LISTENERS.items():
        module, _, loader = source.loader.partition(":")
        cls = getattr(__import__(module, fromlist=[loader]), loader)
        assert cls.name == name and cls.proxy == source.gives.startswith("a stand-in")


@given(st.integers(1, 50), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_windows(samples, size, hop, count):
    audio = torch.arange(1, samples + 1).float()
    padded = torch.cat([audio, torch.zeros(size + hop * count)])
    expected = torch.stack([padded[i * hop : i * hop + size] for i in range(count)])
    assert torch.equal(cut(audio, size, hop, count), expected)
    both = cut(torch.stack([audio, -audio]), size, hop, count)
    assert torch.equal(both, torch.stack([expected, -expected]))
    sums = each_window(lambda part: part.sum(1, keepdim=True), both)
    assert torch.equal(sums[..., 0], both.sum(-1))


@given(st.floats(1e-4, 10), st.floats(-30, 0))
def test_peak(loudest, db):
    audio = torch.tensor([[0.0, -loudest, loudest / 2], [0.0, 0.0, 0.0]])
    normal = peak_normalised(audio, db)
    assert math.isclose(float(normal[0].abs().max()), 10 ** (db / 20), rel_tol=1e-5)
    assert torch.equal(normal[1], audio[1])
