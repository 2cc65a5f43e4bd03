"""A service that serves an old certificate is made to read its files again."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.fleet.celery.plugins.modules import served_certificate
from certificates import Made, make

YEAR = timedelta(days=365)


def certificate(name: str) -> Made:
    return make(name, begin=datetime.now(UTC) - YEAR, end=datetime.now(UTC) + YEAR)


class Service:
    """A TLS server that reads its files when another file exists."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "host.crt"
        self.reload = directory / "reload"
        self.load(certificate("first"))
        self.context = self._read()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def load(self, made: Made) -> None:
        """Replace the files."""
        self.file.write_text(made.pem)
        self.file.with_suffix(".key").write_text(made.key)

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file, self.file.with_suffix(".key"))
        return context

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            if self.reload.exists():
                self.context = self._read()
            with suppress(OSError), connection, self.context.wrap_socket(connection, server_side=True) as session:
                session.recv(1)

    def close(self) -> None:
        # Without it, accept would go on.
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture
def run(service: Service, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(**given: Any) -> dict[str, Any]:
        arguments = {
            "address": "127.0.0.1",
            "port": service.port,
            "certificate": str(service.file),
            "command": [sys.executable, "-c", f"open({str(service.reload)!r}, 'w')"],
            "timeout": 20,
        }
        with patch_module_args(arguments | given), pytest.raises(SystemExit):
            served_certificate.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return call


def test_a_service_with_the_current_certificate_is_left_alone(service: Service, run: Any) -> None:
    assert run()["changed"] is False
    assert not service.reload.exists()


def test_a_service_with_an_old_certificate_reads_its_files_again(service: Service, run: Any) -> None:
    service.load(certificate("second"))
    assert run(_ansible_check_mode=True)["changed"] is True
    assert not service.reload.exists()
    assert run()["changed"] is True
    assert run()["changed"] is False


def test_only_the_first_certificate_of_a_chain_counts(service: Service, run: Any) -> None:
    service.file.write_text(f"comment\n{service.file.read_text()}{certificate('intermediate').pem}")
    assert run()["changed"] is False


def test_a_command_without_effect_fails(service: Service, run: Any) -> None:
    service.load(certificate("second"))
    told = run(command=["echo", "nothing done"], timeout=1)["msg"]
    assert "does not serve the certificate of" in told
    assert "1 s after echo nothing done" in told
    assert "Output of the command: nothing done" in told


def test_a_command_that_fails_is_reported(service: Service, run: Any) -> None:
    service.load(certificate("second"))
    assert "failed with exit code 1" in run(command=["false"])["msg"]


def test_the_environment_reaches_the_command_and_no_output(service: Service, run: Any) -> None:
    service.load(certificate("second"))
    result = run(command=["sh", "-c", "echo got $PASSWORD; exit 1"], environment={"PASSWORD": "swordfish"})
    assert "got ***" in result["msg"]
    assert "swordfish" not in json.dumps(result)


def test_a_port_without_a_service_fails(service: Service, run: Any) -> None:
    service.close()
    told = run()["msg"]
    assert f"Nothing accepts connections on 127.0.0.1 port {service.port}" in told


def test_a_service_without_tls_fails(run: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"-ERR unknown command\r\n")

        threading.Thread(target=serve, daemon=True).start()
        assert "does not speak TLS" in run(port=plain.getsockname()[1])["msg"]


@pytest.mark.parametrize("content", ["", "-----BEGIN CERTIFICATE-----\nAAAA", "\0"])
def test_a_file_without_a_certificate_fails(service: Service, run: Any, content: str) -> None:
    service.file.write_text(content)
    assert "has no certificate in PEM" in run()["msg"]


def test_a_missing_file_fails_except_in_check_mode(service: Service, run: Any) -> None:
    service.file.unlink()
    assert "can't be read" in run()["msg"]
    assert run(_ansible_check_mode=True)["changed"] is True
