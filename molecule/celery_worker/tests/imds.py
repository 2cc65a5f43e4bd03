"""A fake instance metadata service, version 2, of the files in a directory. Each token is valid three times."""

from __future__ import annotations

import sys
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

METADATA = Path(sys.argv[1])
TOKENS: dict[str, int] = {}


class Handler(BaseHTTPRequestHandler):
    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        if self.path != "/latest/api/token" or not self.headers["X-aws-ec2-metadata-token-ttl-seconds"]:
            self._answer(400)
            return
        token = str(uuid.uuid4())
        TOKENS[token] = 3
        self._answer(200, token)

    def do_GET(self) -> None:
        token = self.headers["X-aws-ec2-metadata-token"] or ""
        TOKENS[token] = TOKENS.get(token, 0) - 1
        file = METADATA / self.path.removeprefix("/latest/meta-data/")
        if TOKENS[token] < 0:
            self._answer(401)
        elif file.is_file():
            self._answer(200, file.read_text())
        else:
            self._answer(404)


HTTPServer(("127.0.0.1", 1338), Handler).serve_forever()
