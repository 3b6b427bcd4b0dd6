"""A person's mistakes at the command line: one sentence on standard error and status 1, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest


def gatehouse(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gatehouse", *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("usage", "--url", "http://127.0.0.1:notaport", "--key", "a"), "is not a URL like"),
        (("usage", "--url", "http://[::1", "--key", "a"), "is not a URL like"),
        (("usage", "--url", "http://127.0.0.1:1", "--key", "a\nb"), "The key holds characters that no key has"),
        (("usage", "--url", "http://127.0.0.1:1", "--key", "schlüssel"), "The key holds characters that no key has"),
        (("trace", "", "--url", "http://127.0.0.1:1", "--key", "a"), "The id is empty."),
        (("keys", "revoke", "", "--url", "http://127.0.0.1:1", "--key", "a"), "The id is empty."),
        (("usage", "--data-dir", "/nowhere/at/all"), "No server runs on /nowhere/at/all"),
        (("chat", "hi", "--data-dir", "/nowhere/at/all"), "No server runs on /nowhere/at/all"),
        (("chat", "hi", "--url", "nonsense", "--key", "k", "-m", "m"), "is not a URL like"),
        (("chat", "hi", "--url", "http://127.0.0.1:1", "--key", "k"), "Name it with --model"),
        (("chat", "hi", "--url", "http://127.0.0.1:1", "--key", "k", "-m", "m"), "No server answers"),
        (("models", "--url", "http://127.0.0.1:1", "--data-dir", "/nowhere/at/all"), "No key"),
        (("audit", "verify", "--data-dir", "/nowhere/at/all"), "there is no database"),
        (("config", "check", "/nowhere/at/all"), "cannot be read"),
        (("backup", "/nowhere/b", "--data-dir", "/nowhere/at/all"), "there is no database"),
        (("restore", "/nowhere/b", "--data-dir", "/nowhere/at/all"), "there is no file /nowhere/b"),
        (("restore", "/nowhere/b", "--data-dir", "/dev/null"), "/dev/null is not empty"),
        (("serve", "--port", "99999"), "--port must be between 0 and 65535"),
        (("serve", "--admin-port", "-1"), "--admin-port must be between 0 and 65535"),
    ],
)
def test_a_mistake_is_a_sentence(words: tuple[str, ...], said: str) -> None:
    """What was typed wrong is named; nobody sees our source."""
    done = gatehouse(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("gatehouse: ")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_model_file_that_is_none(tmp_path: Path) -> None:
    """`serve --model` with a file that is no GGUF ends at once and says so, instead of being ready without a model."""
    file = tmp_path / "text.gguf"
    file.write_text("hello")
    done = gatehouse("serve", "--port", "0", "--admin-port", "0", "--data-dir", str(tmp_path / "data"), "--model", str(file))
    assert done.returncode == 1
    assert "this is not a GGUF file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        (
            "kind: vertex, google: {credentials_file: gone.json}",
            "the credentials file gone.json cannot be read (No such file or directory)",
        ),
        ("kind: vertex, google: {credentials_file: gatehouse.yaml}", "is not a key file of a service account"),
        ("kind: openai, api_key: k, base_url: 'http://example.com/v1'", "plain http to another machine needs plaintext"),
        ("kind: openai, api_key: k, ca_bundle: gone.pem", "gone.pem"),
    ],
)
def test_a_provider_that_cannot_work_is_found_by_config_check(tmp_path: Path, provider: str, said: str) -> None:
    """What its files and addresses are wrong about is said before a server runs, by the provider's name."""
    (tmp_path / "gatehouse.yaml").write_text(f"providers: [{{name: lab, {provider}}}]\n")
    words = [sys.executable, "-m", "gatehouse", "config", "check", "gatehouse.yaml"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "provider 'lab'" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
