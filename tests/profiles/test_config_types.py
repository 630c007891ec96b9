"""What the registry of devices has to say about a configuration: exact message, suggestion and line."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from coexistence.config import (
    ApplicationConfig,
    CatalogConfig,
    GenerationConfig,
    InstrumentConfig,
    SimulationConfig,
)
from coexistence.errors import ConfigError
from devices import registry
from profiles.config_check import check_files
from profiles.config_schema import schema
from profiles.configuration import find_configuration, load_configuration
from profiles.docstrings import field_texts

SERIAL = '[[{generation}.instruments]]\nid = "{id}"\ntype = "{type}"\nserial_port = "/dev/{port}"\n{more}'


def on_port(type_name: str, more: str = "", *, generation: str = "v2", name: str = "a", port: str = "ttyS98") -> str:
    return SERIAL.format(generation=generation, id=name, type=type_name, port=port, more=more)


def signal(name: str, more: str = "") -> str:
    return f'[v2.instruments.signals.{name}]\nquery = "X?"\n{more}'


@pytest.fixture
def problems_of(tmp_path: Path) -> Callable[[str], list[str]]:
    def problems(text: str) -> list[str]:
        path = tmp_path / "bench.toml"
        path.write_text(text)
        try:
            load_configuration(path)
        except ConfigError as error:
            return [str(problem).replace(f"{tmp_path}/", "") for problem in error.problems]
        return []

    return problems


CAMERA = '[[v4.instruments]]\nid = "c"\ntype = "PVCAMInstrument"\n'
FOREIGN = '[[v4.instruments]]\nid = "m"\ntype = "{type}"\n{more}'
SOCKET = '[[v4.instruments]]\nid = "v"\ntype = "ScpiMeter"\nresource = "TCPIP0::192.0.2.1::5025::SOCKET"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            on_port("Newport1830"),
            "Unknown type 'Newport1830' of instrument 'a' / did you mean 'Newport1830C'? / bench.toml:3",
            id="unknown type",
        ),
        pytest.param(
            on_port("Zygo"),
            "Unknown type 'Zygo' of instrument 'a' / known are: Newport1830C, Elliptec, ESP300, MaiTai, "
            "ScpiInstrument, ScpiMeter, PVCAMInstrument / bench.toml:3",
            id="unknown type that looks like none",
        ),
        pytest.param(
            on_port("Newport1830C", "wavelenght = 780\n"),
            "Option 'wavelenght' of Newport1830C 'a' cannot be 780 / there is no such option, did you mean wavelength "
            "or wavelength_limits? / bench.toml:5",
            id="unknown option",
        ),
        pytest.param(
            on_port("Newport1830C", 'units = "Watt"\n'),
            "Option 'units' of Newport1830C 'a' cannot be 'Watt' / input should be 'W', 'dB', 'dBm', 'REL' "
            "or 'unchanged' / bench.toml:5",
            id="wrong unit",
        ),
        pytest.param(
            on_port("ESP300", 'axes = [1]\nunits = { 1 = "inch" }\n'),
            "Option 'units' of ESP300 'a' cannot be 'inch' / may be one of count, step, mm, um, in, mil, uin, deg, "
            "grad, rad, mrad, urad / bench.toml:6",
            id="wrong unit of an axis",
        ),
        pytest.param(
            on_port("ESP300", "axes = [1, 5]\n"),
            "Option 'axes.1' of ESP300 'a' cannot be 5 / input should be 1, 2 or 3 / bench.toml:5",
            id="wrong element",
        ),
        pytest.param(
            on_port("Newport1830C", "wavelength = 5000\n"),
            "Option 'wavelength' of Newport1830C 'a' cannot be 5000 / may be 200 to 1800 nm / bench.toml:5",
            id="out of the instrument's range",
        ),
        pytest.param(
            on_port("PVCAMInstrument"),
            "Instrument 'a' is of type PVCAMInstrument, which has no serial_port / give its camera_name / bench.toml:4",
            id="camera on a serial port",
        ),
        pytest.param(
            CAMERA.replace("PVCAMInstrument", "Elliptec") + 'camera_name = "pvcam0"\n',
            "Instrument 'c' is of type Elliptec, which has no camera_name / give its serial_port or resource / "
            "bench.toml:4",
            id="rotator in a camera library",
        ),
        pytest.param(
            CAMERA + 'camera_name = "pvcam0"\nregion = [5, 1, 1, 0, 10, 1]\n',
            "Option 'region' of PVCAMInstrument 'c' cannot be [5, 1, 1, 0, 10, 1] / ",
            id="impossible region",
        ),
        pytest.param(
            SOCKET + "baud_rate = 9600\n",
            "Option 'baud_rate' of ScpiMeter 'v' is for serial lines, and it is on TCPIP0::192.0.2.1::5025::SOCKET / "
            "remove the line / bench.toml:5",
            id="line setting without a line",
        ),
        pytest.param(
            on_port("Newport1830C", "kwargs = { wavelength = 780 }\n"),
            "Newport1830C 'a' takes no kwargs / write its options as keys of [[v2.instruments]]; kwargs are for "
            "package.module:Class / bench.toml:5",
            id="kwargs of a type of the project",
        ),
        pytest.param(
            FOREIGN.format(type="ophyd.sim:SynAxis", more="precision = 3\n"),
            "Option 'precision' of instrument 'm' is not given to ophyd.sim:SynAxis / write kwargs = { precision = ... "
            "} / bench.toml:4",
            id="option of a class from elsewhere",
        ),
        pytest.param(
            FOREIGN.format(type="ophyd.sim:", more=""),
            "Type 'ophyd.sim:' of instrument 'm' names no class / write package.module:Class, "
            "ophyd_async.epics.motor:Motor for one / bench.toml:3",
            id="no class",
        ),
        pytest.param(
            FOREIGN.format(type="no_such_package.motors:Motor", more=""),
            "Type 'no_such_package.motors:Motor' of instrument 'm': there is no package 'no_such_package' / install it "
            "where this session runs, or correct its name / bench.toml:3",
            id="package that is not installed",
        ),
        pytest.param(
            on_port("Newport1830C", name="a") + on_port("ESP300", "baud_rate = 9600\n", name="b"),
            "Instruments 'a' and 'b' are on one port, /dev/ttyS98, with different terminator: b'\\n' and b'\\r\\n' / "
            "their types do not share a line; put one on a port of its own / bench.toml:8",
            id="types that share no line",
        ),
        pytest.param(
            on_port("Newport1830C", name="a") + on_port("Newport1830C", "baud_rate = 19200\n", name="b"),
            "Instruments 'a' and 'b' are on one port, /dev/ttyS98, with different baud_rate: 9600 and 19200 / give "
            "both the same baud_rate / bench.toml:9",
            id="line setting against a default",
        ),
        pytest.param(
            on_port("Elliptec", name="a") + on_port("Elliptec", 'address = "0"\n', name="b"),
            "Instruments 'a' and 'b' are both at address '0' of /dev/ttyS98 / give each the address of its own module "
            "/ bench.toml:9",
            id="two modules at one address",
        ),
        pytest.param(
            on_port("Newport1830C", name="RE"),
            "Instrument ID 'RE' is the name of something else at the prompt / choose another one than session, RE, "
            "devices, sd, bec, catalog, bp, bps, bpp / bench.toml:2",
            id="name of a part of the session",
        ),
        pytest.param(
            on_port("Newport1830C", "timeout = inf\n"),
            "'timeout' in instrument 'a' cannot be inf / input should be a finite number / bench.toml:5",
            id="for ever",
        ),
        pytest.param(
            on_port("Elliptec", "limits = [180, 0]\n"),
            "Option 'limits' of Elliptec 'a' cannot be [180, 0] / the lowest comes first, then the highest "
            "/ bench.toml:5",
            id="limits the wrong way round",
        ),
        pytest.param(
            on_port("ESP300", "axes = [1, 1]\n"),
            "Option 'axes' of ESP300 'a' cannot be [1, 1] / each axis is named once / bench.toml:5",
            id="axis named twice",
        ),
        pytest.param(
            on_port("ESP300", 'units = { 4 = "mm" }\n'),
            "Option 'units' of ESP300 'a' cannot be {'4': 'mm'} / there is no axis 4, axes are 1, 2 and 3 "
            "/ bench.toml:5",
            id="units of no axis",
        ),
        pytest.param(
            on_port("ScpiInstrument") + signal("current") + signal("voltage", 'write = "VOLT"\n'),
            "Option 'signals.voltage.write' of ScpiInstrument 'a' cannot be 'VOLT' / the value goes where {} stands, "
            "as in 'VOLT {}' / bench.toml:9",
            id="command without a place for the value",
        ),
        pytest.param(
            on_port("ScpiInstrument") + signal("current") + signal("read"),
            "'signals.read' of ScpiInstrument 'a' cannot be called so / a device has something of this name itself, "
            "call the signal differently / bench.toml:7",
            id="signal called like a method",
        ),
    ],
)
def test_each_problem_of_a_type_has_a_suggestion_and_a_place(problems_of, text: str, expected: str):
    (problem,) = problems_of(text)
    assert problem.startswith(expected)
    assert problem == expected or expected.endswith(" / ")


def test_types_of_both_generations_and_classes_from_elsewhere_stand_side_by_side(problems_of):
    text = (
        on_port("Newport1830C", "wavelength = 780\n", name="old")
        + on_port("Newport1830C", 'shadow_of = "old"\n', generation="v4", name="new")
        + "".join(on_port("Elliptec", generation=each, name=f"turn_{each}", port="ttyS96") for each in ("v2", "v4"))
        + on_port("ScpiMeter", 'baud_rate = 19200\nparity = "even"\n', name="volts", port="ttyS97")
        + FOREIGN.format(type="ophyd_async.sim:SimMotor", more="kwargs = { instant = true }\n")
        + CAMERA
        + 'camera_name = "pvcam0"\n'
    )
    assert problems_of(text) == []


def test_a_check_knows_what_can_be_simulated(tmp_path: Path, capsys):
    path = tmp_path / "bench.toml"
    path.write_text(
        "[simulation]\nbench = { wavelenght_nm = 800 }\n"
        + on_port("MaiTai", "simulation = { emision = true }\n")
        + on_port("Newport1830C", name="b", port="ttyS97")
    )
    assert check_files([str(path)], json_output=False, hardware=False) == 1
    assert capsys.readouterr().err.splitlines() == [
        "Instrument 'a' cannot be simulated: a simulated MaiTai has no option 'emision'; did you mean 'emission'? / "
        f"correct its simulation = {{ ... }} / {path}:7",
        "Simulation: the simulated bench has no option 'wavelenght_nm'; did you mean 'wavelength_nm'? / "
        f"correct bench in [simulation] / {path}:2",
    ]


def test_a_name_that_is_no_profile_is_told_which_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_configuration("simm")
    assert str(caught.value.problems[0]) == (
        "There is no file 'simm', and no profile of this name / give the path of a TOML file, or one of the profiles "
        "lab, sim"
    )
    (tmp_path / "sim").mkdir()
    assert load_configuration("sim").application.name == "sim"


def test_editors_know_the_options_of_each_type():
    made = schema()
    jsonschema.Draft7Validator.check_schema(made)
    validator = jsonschema.Draft7Validator(made)
    for profile in ("sim", "lab"):
        assert list(validator.iter_errors(tomllib.loads(find_configuration(profile).read_text()))) == []
    types = {each["title"]: each for each in made["definitions"]["InstrumentConfig"]["oneOf"]}
    assert set(types) == {*registry.type_names(), "package.module:Class"}
    elliptec = types["Elliptec"]
    assert elliptec["properties"]["address"]["description"] == "Address on the bus, one hexadecimal digit."
    assert elliptec["properties"]["type"]["const"] == "Elliptec"
    assert "camera_name" not in elliptec["properties"]
    assert "axes" not in elliptec["properties"]
    for wrong in ("wavelenght = 780\n", 'resource = "GPIB0::20::INSTR"\n', 'units = "Watt"\n'):
        assert list(validator.iter_errors(tomllib.loads(on_port("Newport1830C", wrong))))


def test_the_reference_has_every_key(repository: Path):
    page = (repository / "docs" / "configuration.md").read_text()
    models = [ApplicationConfig, CatalogConfig, SimulationConfig, GenerationConfig, InstrumentConfig]
    models += [registry.instrument_type(name).options for name in registry.type_names()]
    missing = {
        f"{model.__name__}.{key}" for model in models for key in field_texts(model) if f"| `{key}` |" not in page
    }
    assert missing - {"GenerationConfig.instruments"} == set()
