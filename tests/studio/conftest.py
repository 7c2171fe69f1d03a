"""A server in a thread, and a real browser: both are waited for by what they say, never by the clock."""

import threading
from contextlib import contextmanager


@contextmanager
def running(app):
    """The address of `app`, served on a free port of loopback by the server that `serve` runs."""
    from ostinato.studio import web

    sock = web.listen_on("127.0.0.1", 0)
    server = web.make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield web.address(sock)
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()
