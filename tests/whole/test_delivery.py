"""Journals reach MLflow whole and once, whatever happens to the server or to training.

Real servers, and training in processes of its own. Everything that needs neither is tested in
`tests/tracking`.
"""

import signal
import subprocess
import time

import pytest

from mtdnn.machine.files import write_json
from mtdnn.tracking import client, content, delivery
from tests.support.mlflow_server import Proxy, Server
from tests.support.tracked_run import PATIENCE_SECONDS, TrackedRun, make_store, wait_until


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> str:
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def server(store, tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server"), store) as running:
        yield running


@pytest.fixture
def proxy(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with Proxy(server) as running:
        yield running


# Answers of the wrong shape: a login page, a list, numbers and objects where others belong.
NONSENSE = (
    b"<html>log in</html>",
    b"[]",
    b'{"experiment": {"experiment_id": {"a": 1}}, "runs": 3}',
)


@pytest.mark.slow
def test_a_stopped_run_is_marked_killed_and_resumes_in_the_same_mlflow_run(store, tmp_path):
    tracked = TrackedRun(tmp_path, store, epochs=30)
    ids = []
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = tracked.begin_training("--checkpoint-minutes", "0.005")
        parts, steps = tracked.record.parts, tracked.record.steps
        wait_until(lambda n=parts: tracked.record.parts > n, "no part")
        wait_until(lambda n=steps: tracked.record.steps > n + 30, "no steps")
        tracked.sync()
        ids.append(tracked.only_run().info.run_id)
        assert tracked.only_run().info.status == "RUNNING"
        assert delivery.reap(tracked.experiment) == []  # it is alive
        assert len(tracked.history("learning_rate")) >= 30
        process.send_signal(number)
        process.wait(timeout=60)
        tracked.sync()
        if number == signal.SIGKILL:
            assert tracked.only_run().info.status == "RUNNING"  # nothing could report otherwise
            (found,) = delivery.reap(tracked.experiment)
            assert f"process {process.pid} on" in found and "was killed" in found
        assert tracked.only_run().info.status == "KILLED"
    tracked.train()
    tracked.sync()
    assert tracked.only_run().info.status == "FINISHED"
    assert "failure" not in tracked.only_run().data.tags
    assert set(ids) == {tracked.only_run().info.run_id}
    tracked.assert_exact()
    assert delivery.reap(tracked.experiment) == []


@pytest.mark.slow
def test_lost_answers_do_not_duplicate_points(proxy, tmp_path):
    tracked = TrackedRun(tmp_path, proxy.address)
    tracked.train()
    for mood in ("lose", "500", "drop", "lose", 8.0):
        proxy.mood = mood
        with pytest.raises(client.StoreUnavailable):
            tracked.sync()
    proxy.mood = None
    tracked.sync()
    tracked.assert_exact()
    before = dict(proxy.writes)
    tracked.sync()
    searching = {name: count for name, count in proxy.writes.items() if name != "search"}
    assert searching == {name: count for name, count in before.items() if name != "search"}


@pytest.mark.slow
def test_training_continues_whatever_the_server_does(server, proxy, tmp_path):
    """Killed and restarted, slow, 500, lost answers: all of it while a real run is trained."""
    tracked = TrackedRun(tmp_path, proxy.address, epochs=60, rows=60)
    training = tracked.begin_training()
    wait_until(lambda: tracked.record.steps > 30, "no steps")
    training.send_signal(signal.SIGSTOP)  # until it is followed
    command = tracked.command("sync", str(tracked.config), "--follow", "--every", "0.2")
    follower = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: proxy.writes.get("log-batch"), "nothing was delivered")
        training.send_signal(signal.SIGCONT)
        for mood in (0.5, "lose", "500", "drop", *NONSENSE):
            proxy.mood = mood
            steps = tracked.record.steps
            wait_until(lambda n=steps: tracked.record.steps > n + 30, "training stands still")
            proxy.mood = None
        server.kill()
        steps = tracked.record.steps
        wait_until(lambda: tracked.record.steps > steps + 100, "training stands still")
        server.start()
        assert training.wait(timeout=PATIENCE_SECONDS) == 0
        write_json(tracked.run_dir / "metrics.json", {"em": 1.0, "f1": 2.0, "slices": {}})
        said = follower.communicate(timeout=PATIENCE_SECONDS)[1]
    finally:
        for process in (training, follower):
            process.kill()
            process.wait()
    assert follower.returncode == 0
    assert "MLflow failed" in said and "answers again" in said and "Traceback" not in said
    assert tracked.only_run().info.status == "FINISHED"
    tracked.assert_exact()
    assert len(tracked.history("learning_rate")) == content.MAX_POINTS  # averaged, and still exact


@pytest.mark.slow
def test_deliverers_of_the_same_run_take_turns(server, tmp_path):
    tracked = TrackedRun(tmp_path, server.address)
    tracked.train()
    processes = [subprocess.Popen(tracked.command("sync", str(tracked.config))) for _ in range(3)]
    assert [process.wait(timeout=PATIENCE_SECONDS) for process in processes] == [0] * 3
    tracked.assert_exact()


@pytest.mark.slow
def test_following_ends_with_the_process_that_it_was_started_for(store, tmp_path):
    tracked = TrackedRun(tmp_path, store)
    parent = subprocess.Popen(["sleep", "600"])
    command = tracked.command("sync", str(tracked.config), "--follow", "--parent", str(parent.pid))
    follower = subprocess.Popen(command)
    try:
        time.sleep(0.2)
        assert follower.poll() is None
        tracked.train()
        parent.kill()
        parent.wait()
        assert follower.wait(timeout=PATIENCE_SECONDS) == 0
    finally:
        for process in (parent, follower):
            process.kill()
            process.wait()
    tracked.assert_exact()  # the last pass
