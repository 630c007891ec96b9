import subprocess
import sys

import pytest

from devices import registry


@pytest.mark.parametrize("type_name", registry.type_names())
@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_every_type_has_a_class_for_either_generation(type_name, generation):
    cls = registry.device_class(type_name, generation)
    assert cls.__name__ == type_name
    assert cls.__module__.startswith(f"devices.{generation}.")


@pytest.mark.parametrize(
    ("wrong", "right"), [("Newport1830", "Newport1830C"), ("newport1830c", "Newport1830C"), ("eliptec", "Elliptec")]
)
def test_unknown_type_comes_with_close_matches(wrong, right):
    with pytest.raises(
        registry.UnknownInstrument, match=rf"no instrument type '{wrong}'. Did you mean {right}"
    ) as caught:
        registry.device_class(wrong, "v4")
    assert caught.value.suggestions[0] == right


def test_type_that_looks_like_nothing_lists_what_there_is():
    with pytest.raises(registry.UnknownInstrument, match=", ".join(registry.type_names())):
        registry.instrument_type("qqqq")


def test_class_of_ones_own():
    assert registry.device_class("fractions:Fraction", "v2").__name__ == "Fraction"


def test_all_wrong_options_are_told_together():
    with pytest.raises(registry.OptionProblem) as caught:
        registry.check_options("Elliptec", {"adress": "2", "tolerance": -1})
    assert "adress: there is no such option, did you mean address?" in str(caught.value)
    assert "tolerance: Input should be greater than 0" in str(caught.value)


def test_instrument_without_a_serial_line_has_no_line_settings():
    with pytest.raises(TypeError, match="PVCAMInstrument is never on a serial line"):
        registry.line_settings("PVCAMInstrument", {})


def test_units_of_a_display_are_set_or_left_as_they_are():
    assert registry.check_options("Newport1830C", {}).settings() == {"units": "W"}
    assert registry.check_options("Newport1830C", {"units": "unchanged", "wavelength": 800}).settings() == {
        "wavelength": 800
    }


def test_line_settings_come_from_instrument_and_options():
    assert registry.line_settings("Newport1830C", {"baud_rate": 19200, "units": "W"}) == {
        "baud_rate": 19200,
        "data_bits": 8,
        "stop_bits": 1,
        "parity": "none",
        "flow_control": "none",
        "terminator": b"\n",
    }
    assert registry.line_settings("ScpiMeter", {"parity": "even", "terminator": "\r\n", "function": "CURR"}) == {
        "baud_rate": 9600,
        "data_bits": 8,
        "stop_bits": 1,
        "parity": "even",
        "flow_control": "none",
        "terminator": b"\r\n",
    }
    assert registry.line_settings("Elliptec", {"address": "2"})["terminator"] == b"\r\n"
    assert registry.line_settings("Elliptec", {})["late_reply_limit"] < 0.1


@pytest.mark.parametrize(("generation", "foreign"), [("v2", "ophyd_async"), ("v4", "ophyd")])
def test_one_generation_does_not_import_the_other(generation, foreign):
    code = (
        "import sys; from devices import registry; "
        f"[registry.device_class(name, {generation!r}) for name in registry.type_names()]; "
        f"sys.exit({foreign!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("generation", ["v2", "v4"])
def test_no_signal_can_be_called_like_what_a_device_has_itself(generation):
    device = registry.device_class("ScpiInstrument", generation)
    own = {name for name in dir(device) if not name.startswith("_")}
    for name in own | {"read", "set", "position", "locate", "kickoff", "prepare", "bad name", "lambda"}:
        with pytest.raises(registry.OptionProblem) as caught:
            registry.check_options("ScpiInstrument", {"signals": {name: {"query": "X?"}}})
        assert caught.value.problems[0][0] == f"signals.{name}.[key]"
