"""A registry on 127.0.0.1 for the tests: it counts what it is asked, and misbehaves on demand."""

import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Registry:
    """Files by path, and how they are given.

    Attributes:
        files: Contents by path.
        redirects: Addresses that paths lead to.
        ranges: Whether a request for the rest of a file is understood.
        cut: Bytes after which the connection breaks, by path.
        pause: Seconds before each answer with a model.
        asked: (path, Range or None) of each request so far.
        url: The address of the folder.
    """

    def __init__(self, url: str):
        self.files, self.redirects, self.cut = {}, {}, {}
        self.ranges, self.pause, self.asked, self.url = True, 0.0, [], url

    def models_asked(self) -> list[str | None]:
        """The Range of each request for a model."""
        return [part for path, part in self.asked if not path.endswith(".toml")]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        registry, path, part = self.server.registry, self.path, self.headers["Range"]
        registry.asked.append((path, part))
        if path in registry.redirects:
            self.send_response(302)
            self.send_header("Location", registry.redirects[path])
            self.end_headers()
            return
        content = registry.files.get(path)
        if content is None:
            self.send_error(404)
            return
        if not path.endswith(".toml"):
            time.sleep(registry.pause)
        start = int(part.removeprefix("bytes=").rstrip("-")) if part and registry.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : registry.cut.get(path, len(content))])

    def log_message(self, *_):
        pass


@contextmanager
def serve() -> Iterator[Registry]:
    """Serve a registry from a thread, until the block ends."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.registry = Registry(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.registry
        finally:
            server.shutdown()
            thread.join()
