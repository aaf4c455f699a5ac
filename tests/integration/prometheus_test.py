#!/usr/bin/env python3
"""A real Prometheus scrapes a real kvantd, on a port and on nothing else; what it stores is what `kvantctl stats` says.

  prometheus_test.py SOURCE PROGRAMS PROMETHEUS_FOLDER

SOURCE: the checkout. PROGRAMS: the folder of kvantd, kvantctl and kvant_test_client. Exit code 77 (skipped) if there is no prometheus to be
had. Also: the tables of tools/docs/metrics.md and the queries of tools/grafana/kvant.json name metrics that there are.
"""
import contextlib
import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

PATIENCE = 60  # seconds; a loaded machine is slow
SKIPPED = 77
# Of this very moment, or of the one who asks.
MOVING = {"uptime_seconds", "sessions", "room_steps"}


@contextlib.contextmanager
def running(*command, **options):
    process = subprocess.Popen(command, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(PATIENCE)


def until(what, ask):
    """The first true answer."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if answer := ask():
                return answer
        time.sleep(0.1)
    sys.exit(f"no {what} within {PATIENCE} s")


def get(url):
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return answer.read().decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(good, what):
    if not good:
        sys.exit(f"FAILED: {what}")


def main():
    source, programs, folder = map(pathlib.Path, sys.argv[1:])
    found = subprocess.run([source / "tools/ci/prometheus.sh", folder], capture_output=True, text=True)
    if found.returncode != 0:
        print(f"skipped, no prometheus: {found.stderr.strip()}")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        work = pathlib.Path(work)
        metrics, web = free_port(), free_port()
        address = work / "kvantd.sock"
        stack.enter_context(running(programs / "kvantd", "--socket", address, "--metrics-listen", f"127.0.0.1:{metrics}", "--log-level", "warn"))
        until("daemon", lambda: subprocess.run([programs / "kvantctl", "--socket", address, "ping"], capture_output=True).returncode == 0)
        client = stack.enter_context(
            running(programs / "kvant_test_client", address, "service", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        check(client.stdout.readline().startswith("ok ready"), "the client is ready")
        for order in ("open 1 0", "feed 1 300 50"):
            client.stdin.write(order + "\n")
            client.stdin.flush()
            check("ok" in client.stdout.readline(), order)

        (work / "prometheus.yml").write_text(
            f"scrape_configs: [{{job_name: kvant, scrape_interval: 200ms, scrape_timeout: 200ms, static_configs: [{{targets: ['127.0.0.1:{metrics}']}}]}}]"
        )
        stack.enter_context(
            running(found.stdout.strip(), f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data",
                    f"--web.listen-address=127.0.0.1:{web}", "--log.level=error")
        )  # fmt: skip

        def query(expression):
            answer = json.loads(get(f"http://127.0.0.1:{web}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
            return {tuple(sorted(row["metric"].items())): float(row["value"][1]) for row in answer["data"]["result"]}

        until("scrape", lambda: query('up{job="kvant"} == 1'))
        stats = json.loads(subprocess.check_output([programs / "kvantctl", "--socket", address, "-o", "json", "stats"], timeout=PATIENCE))
        text = get(f"http://127.0.0.1:{metrics}/metrics")
        names = set(re.findall(r"^# TYPE (\S+)", text, re.M))
        figures = stats["figures"]
        compared = 0
        for name, value in figures.items():
            metric = next((m for m in (f"kvant_{name}", f"kvant_{name}_total") if m in names), None)
            if metric is None or name in MOVING:
                continue
            until(f"{metric} of {value}", lambda: list(query(metric).values()) == [value])
            compared += 1
        check(compared > 25, f"only {compared} of {len(figures)} figures were compared: {sorted(figures)}, {sorted(names)}")
        check(figures["blocks"] > 0 and list(query("sum(kvant_per_store_blocks)").values()) == [figures["blocks"]], "blocks by store")

        documented = set(re.findall(r"`(kvant_[a-z0-9_]+)`", (source / "tools/docs/metrics.md").read_text()))
        stores = {name.replace("kvant_per_store_", "kvant_") for name in names if name.startswith("kvant_per_store_")}
        check(stores <= names, f"a store's figures are not the daemon's: {stores - names}")
        ours = {name for name in names if not name.startswith("kvant_per_store_")}
        check(documented == ours, f"tools/docs/metrics.md lacks {sorted(ours - documented)}, has {sorted(documented - ours)} besides")
        reasons = set(re.findall(r'^kvant_[a-z_]+\{(?:reason|limit)="([a-z_]+)"\}', text, re.M))
        explained = set(re.findall(r"`([a-z_]+)`", (source / "tools/docs/metrics.md").read_text()))
        check(len(reasons) > 20 and reasons <= explained, f"tools/docs/metrics.md does not explain {sorted(reasons - explained)}")
        dashboard = set(re.findall(r"kvant_[a-z0-9_]+", (source / "tools/grafana/kvant.json").read_text()))
        histograms = {name + suffix for name in names for suffix in ("_bucket", "_count", "_sum")}
        check(dashboard <= names | histograms, f"the dashboard asks for {sorted(dashboard - names - histograms)}, which are not there")
        for panel in json.loads((source / "tools/grafana/kvant.json").read_text())["panels"]:
            for target in panel.get("targets", []):
                query(target["expr"].replace("$__rate_interval", "1m"))  # an expression that is none ends the test
        print(f"{compared} figures are the same in Prometheus and in kvantctl stats")


if __name__ == "__main__":
    main()
