"""What is under deploy/ names files that are there, commands that exist and a configuration that a server takes; and it is locked down."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatehouse.operator_file import parse
from tests.docs.pages import ROOT
from tests.docs.test_pages import in_tree, pip

DEPLOY = ROOT / "deploy"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def last(name: str) -> str:
    """The last instruction of a kind: the one that holds in the image."""
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def test_what_the_image_copies_is_there() -> None:
    """Each path of a COPY from the context exists in the repository, and .git and data are not copied."""
    for instruction, rest in instructions():
        if instruction == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert source != "."
                assert (ROOT / source).exists(), source


def test_the_image_installs_by_hash_as_the_makefile_does() -> None:
    """pip takes nothing without a hash except our own wheel, which was built here without fetching anything."""
    runs = [part.split() for instruction, rest in instructions() if instruction == "RUN" for part in rest.split("&&")]
    calls = [words[words.index("pip") + 1 :] for words in runs if "pip" in words]
    assert len(calls) == 4
    for words in calls:
        pip(words[1:])
        assert "--require-hashes" in words or "--no-deps" in words
    locks = set(re.findall(r"requirements/\w+\.txt", (ROOT / "Makefile").read_text()))
    assert {word for words in calls for word in words if word.endswith(".txt")} <= locks


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The image ends as a user that is not root, keeps its data in a volume, and starts a command that exists."""
    assert int(last("USER")) > 0
    assert json.dumps("/data") == json.dumps(last("VOLUME"))
    assert json.loads(last("ENTRYPOINT")) == ["gatehouse"]
    in_tree(json.loads(last("CMD")))
    assert "/readyz" in last("HEALTHCHECK")


def compose() -> dict[str, Any]:
    """The one service of the compose file."""
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    service: dict[str, Any] = document["services"]["gatehouse"]
    assert set(document["volumes"]) == {"data"}
    return service


def test_the_compose_file_locks_the_container_down() -> None:
    """Read-only, no capabilities, no new privileges, the image's user, and no port beyond loopback."""
    service = compose()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == last("USER")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert "data:/data" in service["volumes"]
    assert all((DEPLOY / volume.split(":")[0]).is_file() for volume in service["volumes"] if volume.startswith("./"))


def test_the_health_check_is_one_that_fails(tmp_path: Path) -> None:
    """The command of the health check is Python that ends with an error where nothing answers."""
    words = compose()["healthcheck"]["test"]
    assert words[0] == "CMD"
    assert words[1:] == json.loads(last("HEALTHCHECK").split("CMD", 1)[1])
    program = words[3].replace("8080", "9")
    done = subprocess.run([shutil.which("python3") or "python3", "-c", program], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode != 0


def test_the_unit_starts_a_command_that_exists_and_is_hardened() -> None:
    """ExecStart is in the command tree, the files it names are those that the how-to installs, and the sandbox is closed."""
    unit = (DEPLOY / "gatehouse.service").read_text()
    found = re.search(r"^ExecStart=(.*)$", unit, re.M)
    assert found is not None
    words = shlex.split(found[1])
    in_tree(words[1:])
    page = (ROOT / "docs" / "how-to" / "service.md").read_text()
    assert words[0].removesuffix("/bin/gatehouse") in page
    assert words[words.index("--config") + 1] in page
    for line in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "User=gatehouse", "UMask=0077"):
        assert f"\n{line}\n" in unit


def test_a_stop_waits_for_running_calls() -> None:
    """Both give a server longer to stop than the calls of its example may take to finish."""
    drain = example().drain_seconds
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "gatehouse.service").read_text(), re.M)[0]) > drain
    assert int(compose()["stop_grace_period"].removesuffix("s")) > drain


def example() -> Any:
    """The example of the operator's file."""
    path = DEPLOY / "gatehouse.example.yaml"
    return parse(path.read_text(), str(path), {})


def test_the_example_is_good_as_it_stands_and_with_its_comments_taken_away() -> None:
    """A server takes the example; it takes it too when everything that is commented out is not."""
    assert [model.name for model in example().models] == ["tiny"]
    text = (DEPLOY / "gatehouse.example.yaml").read_text()
    whole = re.sub(r"^(\s*)# (?=providers:|  - |- name|  +targets|  +  - |  +fallbacks)", r"\1", text, flags=re.M)
    settings = parse(whole, "example", {"OPENAI_API_KEY": "k"})
    assert [model.name for model in settings.models] == ["assistant", "tiny"]
    assert [provider.name for provider in settings.providers] == ["openai", "lab"]


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", "gatehouse.service", "gatehouse.example.yaml"])
def test_the_service_page_tells_of_it(name: str) -> None:
    """Nothing under deploy/ is without a word on how to use it."""
    assert f"deploy/{name}" in (ROOT / "docs" / "how-to" / "service.md").read_text()
