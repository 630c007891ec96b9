"""Live values of a session: in its own code, in another terminal, in another program."""

import json
import math
import pickle
import time

import pytest
import zmq
from rich.console import Console

from coexistence.config import DualConfig
from profiles.bridge import Missed, UnifiedMeasurement
from profiles.bridge.documents import MeasurementDocuments
from profiles.console import json_text, say
from profiles.session import Session
from profiles.watch import LiveColumn, sparkline, view, watch

METER = {"type": "Newport1830C", "serial_port": "/dev/ttyUSB0"}


@pytest.fixture(scope="module")
def session(data_dir):
    config = DualConfig.from_mapping(
        {
            "simulation": {"time_scale": 0.1},
            "v2": {"instruments": [{"id": "power_v2", **METER}]},
            "v4": {
                "instruments": [
                    {"id": "power_v4", **METER},
                    {"id": "camera", "type": "PVCAMInstrument", "camera_name": "pvcam0"},
                ]
            },
        }
    )
    with Session.open(config, simulate=True, data_dir=data_dir, strict=True) as session:
        yield session


def first_of_each(subscription, names, timeout=20.0):
    found = {}
    deadline = time.monotonic() + timeout
    while set(found) != set(names):
        item = subscription.get(timeout=max(0.01, deadline - time.monotonic()))
        if isinstance(item, UnifiedMeasurement):
            found.setdefault(item.instrument, item)
    return found


def test_both_generations_measure_the_same_while_somebody_watches(session, caplog):
    with session.measurements.watched(period_s=0.05) as subscription:
        found = first_of_each(subscription, ["power_v2", "power_v4"])
    old, new = found["power_v2"], found["power_v4"]
    assert (old.generation, new.generation) == ("v2", "v4")
    assert (old.signal, old.units, old.kind, type(old.value)) == (new.signal, new.units, new.kind, type(new.value))
    assert old.value == pytest.approx(new.value, rel=0.02)
    assert (old.run, new.run) == (None, None)
    assert "cannot be watched" not in caplog.text  # a camera takes frames in runs only
    assert not session.measurements.bridge.is_used


def test_a_run_tells_its_uid_and_stream(session):
    from bluesky.plans import count

    with session.measurements.bridge.subscribe() as subscription:
        uid = session.RE(count([session.devices.power_v2, session.devices.power_v4], 2)).run_start_uids[0]
        found = first_of_each(subscription, ["power_v2", "power_v4"])
    assert {item.run for item in found.values()} == {uid}
    assert {item.stream for item in found.values()} <= {"primary", "baseline"}


def test_another_terminal_sees_it_and_the_instruments_rest_afterwards(session, capsys, monkeypatch):
    class HasHinted(Exception):
        pass

    def end_with_the_hint(console: Console, text: str) -> None:
        say(console, text)
        raise HasHinted

    with monkeypatch.context() as patch, pytest.raises(HasHinted):
        patch.setattr("profiles.watch.HINT_AFTER_S", 0.0)
        patch.setattr("profiles.watch.say", end_with_the_hint)
        watch(None, simulate=False, data_dir=session.data_dir, columns=["pwr"], duration_s=30.0, json_output=True)
    wrong = capsys.readouterr()
    assert (wrong.out, wrong.err[:38]) == ("", "waiting for pwr ... what comes is powe")
    code = watch(
        None, simulate=False, data_dir=session.data_dir, columns=["power_v4"], duration_s=2.0, json_output=True
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert code == 0
    assert {line["column"] for line in lines} == {"power_v4_power"}
    assert len(lines) == len({line["timestamp"] for line in lines}) > 1
    assert session.measurements.bridge.is_used
    deadline = time.monotonic() + 20
    while session.measurements.bridge.is_used and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session.measurements.bridge.is_used


def test_json_of_a_value_that_is_no_number_can_be_read_by_any_program():
    text = json_text({"error": math.nan, "rows": [(1.5, math.inf)], "name": "a"})
    assert json.loads(text) == {"error": None, "rows": [[1.5, None]], "name": "a"}


def test_without_a_session_it_says_how_to_see_something(tmp_path, capsys):
    assert watch(None, simulate=False, data_dir=tmp_path, columns=[], duration_s=0.1, json_output=False) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("No session is running. Start one with tandem shell, or let this command open one:")


def test_other_programs_receive_documents_over_0mq(session):
    with zmq.Context() as context, context.socket(zmq.SUB) as receiver:
        port = receiver.bind_to_random_port("tcp://127.0.0.1")
        receiver.setsockopt_string(zmq.SUBSCRIBE, "")
        receiver.setsockopt(zmq.RCVTIMEO, 20_000)
        end = session.measurements.publish(f"127.0.0.1:{port}")
        try:
            assert receiver.recv().split(b" ", 2)[1] == b"start"
            columns = set()
            while columns != {"power_v2_power", "power_v4_power"}:
                _, name, document = receiver.recv().split(b" ", 2)
                if name == b"event":
                    columns |= set(pickle.loads(document)["data"])
        finally:
            end()


def test_what_is_no_address_of_a_proxy_is_refused_before_anything_is_made(session, monkeypatch):
    # A publisher that fails half made leaves a context that blocks whoever collects the garbage.
    monkeypatch.setattr("bluesky.callbacks.zmq.Publisher", lambda _: pytest.fail("it was made"))
    with pytest.raises(ValueError) as error:
        session.measurements.publish("tcp://*:5577")
    assert str(error.value) == (
        "'tcp://*:5577' is no address of a 0MQ proxy: write host:port of its input, such as localhost:5577"
    )


def test_documents_of_measurements_are_valid_and_count_what_was_missed():
    from event_model import DocumentNames, schema_validators

    documents = []
    maker = MeasurementDocuments(lambda name, document: documents.append((name, document)))
    for number, value in enumerate([1.0, 2.0, "AUTO", [1.0, 2.0], True]):
        maker.put(UnifiedMeasurement("meter", f"s{number // 2}", value, float(number), "W", "v2"))
    maker.put(Missed(4))
    maker.end()
    for name, document in documents:
        schema_validators[DocumentNames[name]].validate(document)
    assert [name for name, _ in documents].count("descriptor") == 4
    assert documents[-1][1]["missed"] == 4
    assert documents[0][1]["purpose"] == "measurement bridge"


def test_values_are_shown_with_rate_age_and_bars():
    column = LiveColumn()
    for number in range(50):
        column.take(
            {"timestamp": 100 + number / 10, "value": number, "units": "W", "generation": "v4", "kind": "scalar"}
        )
    column.take({"timestamp": 100.0, "value": -1, "units": "W", "generation": "v4", "kind": "scalar"})
    console = Console(width=100, record=True)
    console.print(view({"power": column}, 105.0))
    assert "49 W v4 9.8 0.1 s" in " ".join(console.export_text().split())
    assert len(column.sparkline) == 40
    assert column.sparkline[0] == "▁"
    assert column.sparkline[-1] == "█"
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▄▄"
