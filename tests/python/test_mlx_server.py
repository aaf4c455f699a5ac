"""mlx_lm.server over kvant, as real processes: clients share a system prompt, and a server that comes later finds it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from kvantd_process import Kvantd

pytest.importorskip("mlx.core")

_DEADLINE = 120.0
_TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, model, daemon, log):
        self._port = free_port()
        command = [sys.executable, "-m", "kvant.mlx_lm.server", "--kvant-uri", daemon.uri, "--kvant-config", json.dumps({"block_tokens": 32, "keys": "hq", "values": "hq"})]
        command += ["--model", str(model), "--host", "127.0.0.1", "--port", str(self._port), "--chat-template", _TEMPLATE, "--max-tokens", "8"]
        self._log = open(log, "ab")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def ask(self, path, **body):
        """The answer's text and the prompt's tokens that were found cached."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}{path}", json.dumps({"temperature": 0.0, **body}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=_DEADLINE) as reply:
            answer = json.loads(reply.read())
        choice = answer["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return text, answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def __enter__(self):
        end = time.monotonic() + _DEADLINE
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=1):
                    return self
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait(30)
        self._log.close()


def test_clients_and_servers_share_a_system_prompt(byte6m, prompt, tmp_path):
    system = {"role": "system", "content": prompt[:400]}

    def messages(question):
        return [system, {"role": "user", "content": question}]

    with Kvantd() as daemon:
        with Server(byte6m, daemon, tmp_path / "first.log") as server:
            first, none = server.ask("/v1/chat/completions", messages=messages("int main("))
            assert none == 0
            second, shared = server.ask("/v1/chat/completions", messages=messages("for (auto"))
            assert shared >= 352  # the system prompt, in the server's own prompt cache
            text, _ = server.ask("/v1/completions", prompt=prompt[-400:])
        with Server(byte6m, daemon, tmp_path / "second.log") as server:
            again, found = server.ask("/v1/chat/completions", messages=messages("int main("))
            assert found >= 320 and found % 32 == 0  # whole blocks, by way of the daemon
            assert again == first
            again, found = server.ask("/v1/completions", prompt=prompt[-400:])
            assert found >= 300
            assert again == text
            # The daemon dies and comes back empty: requests are computed again, the server goes on.
            daemon.kill()
            daemon.start()
            again, found = server.ask("/v1/chat/completions", messages=messages("for (auto"))
            assert again == second and found == 0
