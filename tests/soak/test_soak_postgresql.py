"""The laboratory's common catalog: a tiled server on PostgreSQL takes the runs of a session."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import scan
from catalog_helpers import wait_until
from ophyd.sim import SynAxis, SynGauss, SynSignal
from tiled.queries import Key

from catalog import CatalogSession, ExternalServer
from catalog.verify import compare_run

pytestmark = [pytest.mark.soak, pytest.mark.server, pytest.mark.timeout(600)]

KEY = "c0ffee" * 8
CONFIGURATION = """
authentication: {{single_user_api_key: {key}}}
trees:
  - path: /
    tree: catalog
    args:
      uri: postgresql+asyncpg://{user}@127.0.0.1:{port}/catalog
      init_if_not_exists: true
      writable_storage: [{folder}/arrays, "postgresql://{user}@127.0.0.1:{port}/tables"]
media_types:
  BlueskyRun: {{application/json-seq: bluesky_tiled_plugins.exporters:json_seq_exporter}}
"""


def binaries():
    """Return the folder of PostgreSQL's programs, or None."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((folder for folder in reversed(folders) if (folder / "pg_ctl").exists()), None)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def postgresql():
    """A database server of its own; its user, folder and port."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    user, as_user = pwd.getpwuid(os.getuid()).pw_name, []
    if os.getuid() == 0:  # PostgreSQL refuses to be run by root
        if not shutil.which("runuser") or "postgres" not in {each.pw_name for each in pwd.getpwall()}:
            pytest.skip("PostgreSQL needs a user other than root")
        user, as_user = "postgres", ["runuser", "-u", "postgres", "--"]
    # The name of a unix socket may have 107 characters only.
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    folder.chmod(0o777)

    def run(program, *arguments):
        command = [*as_user, programs / program, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, timeout=60)
        assert done.returncode == 0, done.stderr

    database = folder / "database"
    run("initdb", "-D", database, "-U", user, "--auth=trust", "--no-sync", "-E", "UTF8")
    port = free_port()
    options = f"-k {folder} -c listen_addresses=127.0.0.1 -p {port} -c fsync=off"
    # The server inherits the streams of pg_ctl, which would never be closed.
    command = [*as_user, programs / "pg_ctl", "-D", database, "-w", "-l", folder / "log", "-o", options, "start"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, timeout=60)
    try:
        for name in ("catalog", "tables"):
            run("createdb", "-h", folder, "-p", port, "-U", user, name)
        yield user, folder, port
    finally:
        run("pg_ctl", "-D", database, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def laboratory(postgresql, tmp_path_factory):
    """A tiled server on that database, as somebody else would run it."""
    user, folder, database_port = postgresql
    (folder / "arrays").mkdir(exist_ok=True)
    configuration = tmp_path_factory.mktemp("tiled") / "config.yml"
    configuration.write_text(CONFIGURATION.format(key=KEY, user=user, folder=folder, port=database_port))
    port = free_port()
    log = configuration.with_name("log")
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("tiled"), "serve", "config", "--port", str(port), configuration],
            stdout=sink,
            stderr=sink,
        )
    url = f"http://127.0.0.1:{port}"

    def ready():
        assert process.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(f"{url}/healthz", timeout=5.0).status == 200
        except OSError:
            return False

    try:
        wait_until(ready, "the server", 240.0)
        key_file = configuration.with_name("key")
        key_file.write_text(KEY)
        yield ExternalServer(uri=url, key_file=str(key_file))
    finally:
        process.terminate()
        process.wait(30)


def test_runs_are_delivered_found_and_read_back(tmp_path, laboratory):
    engine, data_dir = RunEngine({}), tmp_path / "data"
    motor = SynAxis(name="motor")
    det = SynGauss("det", motor, "motor", center=0, Imax=1)
    image = SynSignal(name="image", func=lambda: np.arange(600.0).reshape(20, 30))
    with CatalogSession(data_dir, server=laboratory) as session:
        engine.subscribe(session.journal)
        (uid,) = engine(scan([det, image], motor, -1, 1, 7), sample="quartz")
        session.wait_delivered(uid, timeout=90.0)
        catalog = session.catalog()
        assert compare_run(data_dir, catalog[uid]) == []
        assert list(catalog.search(Key("sample") == "quartz")) == [uid]
        assert catalog[uid]["primary"].read()["image"].shape == (7, 20, 30)
        assert session.close(wait_delivered=60.0) is True
