"""What the documents say holds: their commands run, their examples are taken, their names exist.

Blocks in ``bash`` are run, page by page, each page's as one script, against a served Flow with
stand-ins for the vendors. One that cannot be has a comment in front of it::

    <!-- not run: it serves until it is stopped -->

A block in ``console`` is run where nothing is set, and must say exactly what it shows.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from flow.bot.transports import TRANSPORTS
from flow.db.connection_url import url_of
from flow.domain.calls.join_request import JoinRequest
from flow.domain.pricing.price_file import read_lines
from flow.sandbox.all_vendors import vendors
from flow.sandbox.server import Served
from generate.markdown import Descriptions
from generate.pages import PAGES as PAGES_OF_REFERENCE
from tests.calls.conftest import Serve, serving
from tests.documents import PAGES, ROOT, Block, blocks
from tests.operate.conftest import SHELL
from tests.test_house import variables

__all__ = ["serving"]

pytestmark = pytest.mark.usefixtures("parsing_undisturbed")

README_LINES = 150
PAGE_SECS = 60.0

# An answer that is an error fails its script, and `flow` is run by a process that has imported it.
PRELUDE = """\
set -euo pipefail
curl() { command curl --fail-with-body --max-time 20 "$@"; }
flow() { printf '%s\\n' "$@" | command curl -s --fail-with-body --data-binary @- "$FLOW_COMMANDS"; }
"""
# Variables of others, which Flow leaves to them.
OF_OTHERS = {
    "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_CUSTOM_HEADERS", "ANTHROPIC_MODEL", "FLOW_API_KEY",
    "FLOW_BENCH_LITELLM", "OPENAI_API_BASE", "OPENAI_CUSTOM_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER",
}  # fmt: skip
PATHS = re.compile(r"`((?:flow|tests|supabase|docs)/[\w./<>-]+)`")


async def test_the_commands_of_every_page_run(
    serving: Serve, postgres_url: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    scripts = _scripts()
    assert len(scripts) >= 4
    described = PAGES_OF_REFERENCE["reference/metrics.md"](Descriptions())
    async with vendors() as running, serving(running) as served:
        counted = {metric.name for metric in served.service.registry.collect()}
        assert {name for name in counted if f"`{name}" not in described} == set()
        environment = running.environment | {
            "DATABASE_URL": url_of(postgres_url),
            "PATH": os.environ["PATH"],
            "FLOW_DATA_DIR": str(tmp_path),
        }
        async with _commands(environment) as commands:
            for page, script in scripts.items():
                folder = tmp_path / page.stem
                folder.mkdir()
                variables = environment | {
                    "BASE": served.url,
                    "KEY": f"Authorization: Bearer {running.api_key}",
                    "FLOW_COMMANDS": commands,
                }
                with subtests.test(str(page.relative_to(ROOT))):
                    code, said = await _run(script, folder, variables)
                    assert code == 0, said


def test_a_page_that_says_what_a_command_answers_shows_its_words(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    shown = [block for block in blocks("console") if block.unrun is None]
    for block in shown:
        with subtests.test(str(block)):
            command, _, answer = block.text.partition("\n")
            environment = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            done = subprocess.run(
                command.removeprefix("$ "),
                shell=True,
                cwd=tmp_path,
                env=environment | {"HOME": str(tmp_path)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout + done.stderr == answer


def test_everything_in_the_reference_has_a_description() -> None:
    descriptions = Descriptions()
    pages = {path: write(descriptions) for path, write in PAGES_OF_REFERENCE.items()}
    assert descriptions.missing == []
    assert min(len(page.splitlines()) for page in pages.values()) > 20


def test_shell_is_called_bash_in_every_page() -> None:
    others = [str(block) for block in blocks("sh", "shell", "zsh")]
    assert others == [], "call it bash; the head of this file says how to mark what cannot run"


def test_json_is_json_and_joins_are_taken() -> None:
    joins = [
        document
        for block in blocks("json")
        for document in _documents(block)
        if document and document.keys() <= JoinRequest.model_fields.keys()
    ]
    assert len(joins) >= 3
    for join in joins:
        JoinRequest.model_validate(join, context={"transports": TRANSPORTS})


def test_python_compiles_and_finds_what_it_imports(subtests: pytest.Subtests) -> None:
    for block in blocks("python"):
        with subtests.test(str(block)):
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.Import):
                    for alias in node.names:
                        importlib.import_module(alias.name)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    module = importlib.import_module(node.module)
                    assert [one.name for one in node.names if not hasattr(module, one.name)] == []


def test_toml_is_toml_and_prices_are_taken() -> None:
    for block in blocks("toml"):
        if "price" in tomllib.loads(block.text):
            assert read_lines(block.text, str(block))


def test_yaml_is_yaml() -> None:
    for block in blocks("yaml", "yml"):
        assert list(yaml.safe_load_all(block.text)), str(block)


def test_every_variable_that_is_named_is_one() -> None:
    known = set(variables())
    owners = {name.split("_")[0] for name in known}
    named = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        for name in re.findall(r"(?<![\w$])[A-Z]+_[A-Z0-9_]*[A-Z0-9]\b", page.read_text("utf-8"))
        if name.split("_")[0] in owners and name not in known | OF_OTHERS
    }
    assert named == set()


def test_every_file_that_is_named_is_there() -> None:
    missing = {
        f"{page.relative_to(ROOT)}: {path}"
        for page in PAGES
        for path in PATHS.findall(page.read_text("utf-8"))
        if "<" not in path and not (ROOT / path).exists()
    }
    assert missing == set()


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= README_LINES
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme) + re.findall(
        r'(?:src|srcset)="([^":]+)"', readme
    )
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def _scripts() -> dict[Path, str]:
    """What is run of each page; each block says in the output where it stands."""
    scripts: dict[Path, str] = {}
    for block in blocks("bash"):
        if block.unrun is None:
            before = scripts.get(block.path, PRELUDE)
            scripts[block.path] = f"{before}echo '== {block}'\n{block.text}\n"
    return scripts


async def _run(script: str, folder: Path, variables: dict[str, str]) -> tuple[int | None, str]:
    shell = await asyncio.create_subprocess_exec(
        "bash", "-c", script, cwd=folder, env=variables, stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    async with asyncio.timeout(PAGE_SECS):
        said, _ = await shell.communicate()
    return shell.returncode, said.decode()


@asynccontextmanager
async def _commands(environment: dict[str, str]) -> AsyncIterator[str]:
    """Where `flow` commands are run: POST the arguments, one a line."""
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SHELL, stdin=PIPE, stdout=PIPE, limit=2**24
    )
    assert runner.stdin is not None
    assert runner.stdout is not None
    stdin, stdout = runner.stdin, runner.stdout

    async def command(request: Request) -> Response:
        arguments = (await request.body()).decode().splitlines()
        stdin.write(json.dumps({"args": arguments, "env": environment}).encode() + b"\n")
        done = json.loads(await stdout.readline())
        return PlainTextResponse(done["out"] + done["err"], 400 if done["code"] else 200)

    try:
        app = Starlette(routes=[Route("/", command, methods=["POST"])])
        async with Served(app) as url:
            yield url
    finally:
        stdin.close()
        await runner.wait()


def _documents(block: Block) -> Iterator[dict[str, Any]]:
    """The JSON documents of a block, of which there may be several."""
    decoder, text = json.JSONDecoder(), block.text.strip()
    while text:
        try:
            document, end = decoder.raw_decode(text)
        except ValueError as error:
            pytest.fail(f"{block}: {error}")
        yield document if isinstance(document, dict) else {}
        text = text[end:].strip()
