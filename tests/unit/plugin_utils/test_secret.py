"""The lookup of passwords."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.fleet.celery.plugins.lookup.secret import printed
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore

ROOT = Path(__file__).parents[3]


def test_a_command_prints_a_password_with_any_character(tmp_path: Path) -> None:
    (tmp_path / "redis_application").write_text(" $a {{ b }} \n", encoding="utf-8")
    ask = "lookup('fleet.celery.secret', 'redis_application', directory='/none'%s)"
    message = "{{ [%s, %s] | to_json | b64encode }}" % (ask % "", ask % ", given='mine'")  # noqa: UP031 - braces
    variables = {"celery_secret_command": ["cat", "{{ where }}/{name}"], "where": str(tmp_path)}
    assert "WyIgJGEge3sgYiB9fSAiLCAibWluZSJd" in ansible("debug", f"msg={message}", variables)


def ansible(module: str, arguments: str, variables: dict[str, Any], *options: str, status: int = 0) -> str:
    argv = [str(Path(sys.executable).with_name("ansible")), "localhost", "-m", module, "-a", arguments]
    argv += ["-e", json.dumps(variables), *options]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout


def test_the_vault_password_of_the_run_encrypts_and_decrypts(tmp_path: Path) -> None:
    directory, passphrase = tmp_path / "secrets", tmp_path / "passphrase"
    passphrase.write_text("right\n", encoding="utf-8")
    message = f"msg={{{{ lookup('fleet.celery.secret', 'prometheus', directory='{directory}') }}}}"
    variables = {"celery_secrets_encrypted": "{{ wanted }}", "wanted": True}
    vault = f"--vault-password-file={passphrase}"
    shown = ansible("debug", message, variables, vault)
    assert (directory / "prometheus").read_text(encoding="utf-8").startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    assert ansible("debug", message, {}, vault) == shown
    assert "but this run has no vault password" in ansible("debug", message, {}, status=2)

    (directory / "alertmanager").write_text("plain\n", encoding="utf-8")
    module = "fleet.celery.celery_secrets"
    assert "but this run has no vault password" in ansible(module, f"directory={directory} state=checked", {}, status=2)
    for given, expected in (({}, "names: []"), (variables, "- alertmanager")):
        assert expected in ansible(module, f"directory={directory} state=encrypted", given, vault)
    assert not SecretStore(directory, encrypted=True).plain_names()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["sh", "-c", "echo locked >&2; exit 1"], "prints no password: locked"),
        (["true"], "exit code 0"),
        (["/nothing"], "/nothing does not run"),
    ],
)
def test_a_command_without_a_password_fails(command: list[str], reason: str) -> None:
    with pytest.raises(AnsibleError, match=reason):
        printed(command)
