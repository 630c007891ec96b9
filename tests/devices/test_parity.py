"""Both generations of an instrument show the same face: nobody's analysis notices which one measured."""

import pytest
from bluesky.run_engine import call_in_bluesky_event_loop

from devices import registry

INSTRUMENTS = {
    "Newport1830C": ("meter", {}),
    "Elliptec": ("bus", {"address": "3", "limits": (-90.0, 270.0)}),
    "ESP300": ("stage", {"axes": [1, 3]}),
    "MaiTai": ("laser", {}),
    "ScpiMeter": ("meter2", {"function": "CURR"}),
    "ScpiInstrument": (
        "meter2",
        {
            "signals": {
                "current": {"query": "MEAS:CURR?", "units": "A", "precision": 6, "kind": "hinted"},
                "samples": {"query": "SAMP:COUN?", "write": "SAMP:COUN {}", "datatype": "int", "kind": "config"},
            },
            "waveforms": {"trace": {"query": "FETC?", "points": 1, "encoding": "ascii", "units": "mA", "scale": 1e3}},
            "setup": ["CONF:CURR", "INIT"],
        },
    ),
}


def make(connection, generation, type_name):
    wire, options = INSTRUMENTS[type_name]
    cls = registry.device_class(type_name, generation)
    device = cls(connection(wire, "instrument"), name="instrument", **options)
    if generation == "v2":
        device.connect()
    else:
        call_in_bluesky_event_loop(device.connect())
    return device


def face(device, generation):
    """Everything that plans, callbacks and catalogs see of a device."""

    def ask(method):
        result = getattr(device, method)()
        return call_in_bluesky_event_loop(result) if generation == "v4" else result

    face = {
        "describe": dict(ask("describe")),
        "describe_configuration": dict(ask("describe_configuration")),
        "columns": {name: type(reading["value"]) for name, reading in ask("read").items()},
        "configuration": {
            name: (type(reading["value"]), reading["value"]) for name, reading in ask("read_configuration").items()
        },
        "hints": device.hints,
        "name": device.name,
        "movable": hasattr(device, "set"),
    }
    if face["movable"]:
        location = call_in_bluesky_event_loop(device.locate())
        face["location"] = {which: round(position, 2) for which, position in location.items()}
        if generation == "v2":
            assert device.position == location["readback"]
    return face


def motion_limits(device, generation):
    key = device.describe() if generation == "v2" else call_in_bluesky_event_loop(device.describe())
    limits = key[device.name]["limits"]["control"]
    return limits["low"], limits["high"]


ON_WIRES = [name for name in registry.type_names() if registry.instrument_type(name).medium != "camera"]


@pytest.mark.parametrize("type_name", ON_WIRES)
def test_both_generations_show_the_same_face(engine, connection, type_name):
    faces = {}
    for generation in ("v2", "v4"):
        faces[generation] = face(make(connection, generation, type_name), generation)
    assert faces["v2"] == faces["v4"]
    assert faces["v2"]["columns"]
    assert faces["v2"]["configuration"]


@pytest.mark.parametrize("type_name", ["Elliptec"])
def test_both_generations_have_the_same_limits(engine, connection, type_name):
    old, new = make(connection, "v2", type_name), make(connection, "v4", type_name)
    assert old.limits == motion_limits(old, "v2") == motion_limits(new, "v4")


def test_units_and_precision_stand_in_the_data_keys(engine, connection):
    described = face(make(connection, "v4", "Newport1830C"), "v4")["describe"]
    assert described["instrument_power"]["units"] == "W"
    assert described["instrument_power"]["precision"] == 12
    assert described["instrument_power"]["dtype_numpy"] == "<f8"
    settings = face(make(connection, "v2", "Newport1830C"), "v2")["describe_configuration"]
    assert settings["instrument_wavelength"]["units"] == "nm"
    assert settings["instrument_wavelength"]["limits"] == {"control": {"low": 200.0, "high": 1800.0}}
    assert settings["instrument_units"]["choices"] == ["W", "dB", "dBm", "REL"]
