"""Configuration files as users write them, and every problem they are told about."""

import grp
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from coexistence.config import DualConfig, Finding
from coexistence.errors import ConfigError

COMPLETE = """\
[application]
name = "bench"
log_level = "info"
[v2]
enabled = true
[[v2.instruments]]
id = "elliptec1"
type = "Elliptec"
serial_port = "/dev/ttyUSB0"
[v4]
enabled = true
[[v4.instruments]]
id = "scpi_meter"
type = "ScpiInstrument"
resource = "TCPIP0::192.168.1.100::INSTR"
[[v4.instruments]]
id = "pvcam_camera"
type = "PVCAMInstrument"
camera_name = "pvcam0"
"""

METER = '[[{generation}.instruments]]\nid = "{id}"\ntype = "Newport1830C"\nserial_port = "{port}"\n'


def meter(generation: str, name: str, port: str = "/dev/ttyS99", more: str = "") -> str:
    return METER.format(generation=generation, id=name, port=port) + more


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str, name: str = "config.toml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_file


def problems_of(*paths: Path, **options) -> list[str]:
    """Return what the user reads, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        DualConfig.load(*paths, environment=options.pop("environment", {}), **options)
    return [str(problem).replace(f"{paths[0].parent}{os.sep}", "") for problem in caught.value.problems]


def test_a_bench_loads_with_its_instruments_and_defaults(write):
    config = DualConfig.load(write(COMPLETE), environment={})
    assert [(generation, i.id, i.type, i.wire) for generation, i in config.instruments()] == [
        ("v2", "elliptec1", "Elliptec", "/dev/ttyUSB0"),
        ("v4", "scpi_meter", "ScpiInstrument", "TCPIP0::192.168.1.100::INSTR"),
        ("v4", "pvcam_camera", "PVCAMInstrument", "pvcam0"),
    ]
    assert config.application.name == "bench"
    assert config.application.log_level == "info"
    assert config.catalog_directory is None
    instrument = config.v2.instruments[0]
    assert (instrument.enabled, instrument.timeout, instrument.connect_timeout) == (True, 1.0, 10.0)


def test_options_of_a_type_are_kept_apart_from_the_common_settings(write):
    config = DualConfig.load(
        write(meter("v2", "power", more='wavelength = 780\nbaud_rate = 9600\nparity = "none"\n')), environment={}
    )
    instrument = config.v2.instruments[0]
    assert instrument.options == {"wavelength": 780, "baud_rate": 9600, "parity": "none"}
    assert instrument.line_settings == {"baud_rate": 9600, "parity": "none"}


def test_classes_from_elsewhere_need_no_wire(write):
    text = '[[v4.instruments]]\nid = "m"\ntype = "ophyd_async.sim:SimMotor"\nargs = [1]\nkwargs = {instant = true}\n'
    instrument = DualConfig.load(write(text), environment={}).v4.instruments[0]
    assert (instrument.is_foreign, instrument.args, instrument.kwargs) == (True, (1,), {"instant": True})


def test_later_files_override_earlier_ones_and_instruments_merge_by_id(write):
    base = write(meter("v2", "power") + meter("v2", "other"), "base.toml")
    here = write(
        '[application]\nname = "here"\n[[v2.instruments]]\nid = "power"\nserial_port = "/dev/ttyS7"\n'
        + meter("v2", "third"),
        "here.toml",
    )
    config = DualConfig.load(base, here, environment={})
    assert [(i.id, i.serial_port) for i in config.v2.instruments] == [
        ("power", "/dev/ttyS7"),
        ("other", "/dev/ttyS99"),
        ("third", "/dev/ttyS99"),
    ]
    assert config.application.name == "here"
    assert config.location("v2", "power", "serial_port") == f"{here}:5"
    assert config.location("v2", "other", "serial_port") == f"{base}:8"


def test_the_environment_overrides_files(write):
    path = write(COMPLETE)
    config = DualConfig.load(path, environment={"TANDEM__V4__ENABLED": "false", "TANDEM__APPLICATION__NAME": "night"})
    assert not config.v4.enabled
    assert config.v4.active_instruments == ()
    assert config.application.name == "night"
    assert [i.id for _, i in config.instruments()] == ["elliptec1"]


def test_a_problem_from_the_environment_names_the_variable(write):
    assert problems_of(write(COMPLETE), environment={"TANDEM__V4__ENABELD": "false"}) == [
        "Unknown setting 'enabeld' in [v4] / did you mean 'enabled'? / environment variable TANDEM__V4__ENABELD"
    ]


def test_the_environment_overrides_settings_of_instruments(write):
    config = DualConfig.load(
        write(meter("v2", "Power")),
        environment={
            "TANDEM__V2__INSTRUMENTS__POWER__SERIAL_PORT": "/dev/ttyS7",
            "TANDEM__V2__INSTRUMENTS__POWER__SIMULATION__SEED": "3",
        },
    )
    (instrument,) = config.v2.instruments
    assert (instrument.serial_port, instrument.simulation) == ("/dev/ttyS7", {"seed": 3})
    assert config.location("v2", "Power", "serial_port") == (
        "environment variable TANDEM__V2__INSTRUMENTS__POWER__SERIAL_PORT"
    )
    assert problems_of(write(meter("v2", "a")), environment={"TANDEM__V2__INSTRUMENTS__B__ENABLED": "false"}) == [
        "There is no instrument 'b' in v2 / there are: a / environment variable TANDEM__V2__INSTRUMENTS__B__ENABLED"
    ]


def test_a_part_of_a_bench_is_a_configuration_too(write):
    config = DualConfig.load(write(COMPLETE), environment={}).only("scpi_meter", "elliptec1")
    assert [(generation, i.id) for generation, i in config.instruments()] == [("v2", "elliptec1"), ("v4", "scpi_meter")]
    assert config.files[0].name == "config.toml"


def test_a_byte_order_mark_is_no_part_of_the_file(write):
    path = write("")
    path.write_bytes(b"\xef\xbb\xbf[application]\nname = 'windows'\n")
    assert DualConfig.load(path, environment={}).application.name == "windows"


def test_a_disabled_instrument_is_checked_but_not_started(write):
    config = DualConfig.load(write(meter("v2", "a", more="enabled = false\n") + meter("v2", "b")), environment={})
    assert [i.id for _, i in config.instruments()] == ["b"]


def test_relative_directories_are_relative_to_the_file(write, tmp_path: Path):
    config = DualConfig.load(write('[catalog]\ndirectory = "runs"\n'), environment={})
    assert config.catalog_directory == tmp_path / "runs"


def test_the_fingerprint_depends_on_the_settings_and_not_on_the_text(write):
    one = DualConfig.load(write(COMPLETE), environment={}).fingerprint
    same = DualConfig.load(write("# a comment\n" + COMPLETE), environment={}).fingerprint
    other = DualConfig.load(write(COMPLETE.replace("ttyUSB0", "ttyUSB1")), environment={}).fingerprint
    assert one == same != other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            meter("v2", "meter") + meter("v4", "meter"),
            "Duplicate instrument ID 'meter' in both v2 and v4 / rename to 'meter_v4' in the v4 section / "
            "config.toml:6",
            id="duplicate across generations",
        ),
        pytest.param(
            meter("v4", "meter") + meter("v4", "meter"),
            "Duplicate instrument ID 'meter' in v4 / rename to 'meter_v4' in the v4 section / config.toml:6",
            id="duplicate in one generation",
        ),
        pytest.param(
            "[v2]\nenabled = false\n[v4]\nenabled = false\n",
            "Both generations are disabled / set enabled = true in [v2] or in [v4] / config.toml:4",
            id="both disabled",
        ),
        pytest.param(
            '[application]\nname = "a\n',
            "TOML syntax: Illegal character '\\n' / correct this line: name = \"a / config.toml:2",
            id="syntax",
        ),
        pytest.param(
            "[aplication]\n",
            "Unknown section [aplication] / did you mean 'application'? / config.toml:1",
            id="unknown section",
        ),
        pytest.param(
            "[application]\nnme = 'x'\n",
            "Unknown setting 'nme' in [application] / did you mean 'name'? / config.toml:2",
            id="unknown setting",
        ),
        pytest.param(
            "[application]\nlog_level = 'loud'\n",
            "'log_level' in [application] cannot be 'loud' / "
            "input should be 'debug', 'info', 'warning', 'error' or 'critical' / config.toml:2",
            id="log level",
        ),
        pytest.param(
            "[[v2.instruments]]\nid = 'a'\nserial_port = '/dev/ttyS99'\n",
            "'type' is missing in instrument 'a' / add a line: type = ... / config.toml:1",
            id="no type",
        ),
        pytest.param(
            "[[v2.instruments]]\nid = 'a b'\ntype = 'X'\nserial_port = '/dev/ttyS99'\n",
            "'id' in instrument 'a b' cannot be 'a b' / must be a name of letters, digits and underscores that does "
            "not begin with a digit / config.toml:2",
            id="id is no name",
        ),
        pytest.param(
            "[[v2.instruments]]\nid = 'a'\ntype = 'X'\n",
            "Instrument 'a' names no wire / add one of serial_port, resource, camera_name / config.toml:1",
            id="no wire",
        ),
        pytest.param(
            meter("v2", "a", more="camera_name = 'c'\n"),
            "Instrument 'a' names several wires: serial_port, camera_name / keep the one it is connected to / "
            "config.toml:5",
            id="two wires",
        ),
        pytest.param(
            meter("v2", "a", more="timeout = -1\n"),
            "'timeout' in instrument 'a' cannot be -1 / input should be greater than 0 / config.toml:5",
            id="negative timeout",
        ),
        pytest.param(
            meter("v2", "a", more="baud_rate = 9600\n") + meter("v4", "b", more="baud_rate = 19200\n"),
            "Instruments 'a' and 'b' are on one port, /dev/ttyS99, with different baud_rate: 9600 and 19200 / "
            "give both the same baud_rate / config.toml:10",
            id="conflicting line settings",
        ),
        pytest.param(
            meter("v2", "power") + meter("v4", "new", more="shadow_of = 'powr'\n"),
            "Instrument 'new' shadows 'powr', which is no instrument / did you mean 'power'? / config.toml:9",
            id="shadow of nothing",
        ),
        pytest.param(
            meter("v2", "power") + meter("v4", "new", more="shadow_of = 'new'\n"),
            "Instrument 'new' shadows itself / name one of v2: power / config.toml:9",
            id="shadow of itself",
        ),
        pytest.param(
            meter("v2", "a") + meter("v4", "b") + meter("v4", "c", more="shadow_of = 'b'\n"),
            "Instrument 'c' shadows 'b', which is of v4 as well / name one of v2: a / config.toml:13",
            id="shadow of its own generation",
        ),
        pytest.param(
            meter("v2", "a").replace("Newport1830C", "ScpiMeter") + meter("v4", "b", more="shadow_of = 'a'\n"),
            "Instrument 'b' is of type Newport1830C and shadows 'a', which is of type ScpiMeter / "
            "remove the line / config.toml:9",
            id="shadow of another type",
        ),
        pytest.param(
            meter("v2", "a", more="shadow_of = 'b'\n") + meter("v4", "b", more="shadow_of = 'a'\n"),
            "Instruments 'a' and 'b' shadow each other / remove one of the two lines / config.toml:10",
            id="shadows of each other",
        ),
        pytest.param(
            "[v2.instruments]\nid = 'a'\n",
            "The instruments of v2 are {'id': 'a'}, which is no list / begin each instrument with [[v2.instruments]], "
            "in double brackets / config.toml:1",
            id="single brackets",
        ),
        pytest.param(
            "[[v2.instruments]]\nid = 'a'\ntype = 'X'\nserial_port = 'usb:403:6001'\n",
            "Malformed serial port of instrument 'a': 'usb:403:6001' is no USB identity / write usb:VENDOR:PRODUCT or "
            "usb:VENDOR:PRODUCT:SERIAL with four hexadecimal digits each, for example 'usb:0403:6001:FT1ABC23' / "
            "config.toml:4",
            id="malformed port",
        ),
        pytest.param(
            "[application]\nbaseline = ['powr']\n" + meter("v2", "power"),
            "The baseline names 'powr', which is no instrument / did you mean 'power'? / config.toml:2",
            id="baseline of nothing",
        ),
        pytest.param(
            "v2 = 3\n",
            "v2 = 3 is no section / write [v2] on a line of its own / config.toml:1",
            id="section is a number",
        ),
        pytest.param(
            "[v2]\ninstruments = [1]\n",
            "1 is no instrument / begin each instrument with [[v2.instruments]] / config.toml:2",
            id="instrument is a number",
        ),
    ],
)
def test_each_problem_has_a_suggestion_and_a_place(write, text: str, expected: str):
    assert problems_of(write(text)) == [expected]


def test_a_malformed_visa_resource_is_shown_right_ones(write):
    (problem,) = problems_of(
        write('[[v4.instruments]]\nid = "m"\ntype = "ScpiInstrument"\nresource = "TCPIP0:192.168.1.100"\n')
    )
    assert problem == (
        "Malformed VISA resource 'TCPIP0:192.168.1.100' of instrument 'm': '0:192.168.1.100' is no board number / "
        "write TCPIP0::host::5025::SOCKET, TCPIP0::host::hislip0::INSTR or TCPIP0::host::inst0::INSTR / config.toml:4"
    )


def test_all_problems_are_told_at_once_in_the_order_of_the_file(write):
    text = (
        "[application]\nlog_level = 'loud'\n[v2]\nenable = true\n"
        + meter("v2", "a", more="timeout = 'long'\n")
        + meter("v4", "a")
        + "[[v4.instruments]]\nid = 'b'\ntype = 'X'\n[catalogue]\n"
    )
    problems = problems_of(write(text))
    assert [problem.rsplit(":", 1)[1] for problem in problems] == ["2", "4", "9", "11", "14", "17"]


def test_a_missing_file_is_a_problem_like_any_other(tmp_path: Path):
    assert problems_of(tmp_path / "none.toml") == [
        "The configuration cannot be read: No such file or directory / give the path of a TOML file / none.toml"
    ]


def test_a_file_in_another_encoding_is_named_with_the_line_and_what_to_do(tmp_path: Path):
    (tmp_path / "bench.toml").write_bytes(b"[application]\n# M\xfcller's bench\n")
    assert problems_of(tmp_path / "bench.toml") == [
        "The configuration cannot be read: it is not UTF-8 text / save it as UTF-8, if it is a TOML file at all / "
        "bench.toml:2"
    ]


def test_a_file_of_the_old_form_says_how_to_convert_it(write):
    (problem,) = problems_of(write("[instruments.power]\ntype = 'newport_1830c'\n"))
    assert problem.startswith("Unknown section [instruments] / convert an old file: tandem config migrate ")
    assert problem.endswith("config.toml -o NEW.toml / config.toml:1")


def test_storage_directories_must_lie_apart_also_through_links(write, tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (problem,) = problems_of(write('[v2]\nstorage = "real"\n[v4]\nstorage = "link"\n'))
    assert problem.startswith("The storage directories of v2 and v4 are the same directory: ")
    assert problem.endswith(" / give each generation a directory of its own, side by side / config.toml:4")
    (problem,) = problems_of(write('[v2]\nstorage = "real"\n[v4]\nstorage = "link/inside"\n'))
    assert "lie one inside the other" in problem


def test_a_storage_directory_must_be_writable(write, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (problem,) = problems_of(write('[v2]\nstorage = "file"\n'))
    assert problem == (
        "Storage directory 'file' of v2 cannot be used: file is no directory / "
        "choose a directory you may write to / config.toml:2"
    )


def test_ports_are_compared_by_the_device_behind_a_link(write, tmp_path: Path):
    (tmp_path / "port").write_text("")
    (tmp_path / "alias").symlink_to(tmp_path / "port")
    (problem,) = problems_of(
        write(
            meter("v2", "a", str(tmp_path / "port"), "baud_rate = 9600\n")
            + f'[[v4.instruments]]\nid = "b"\ntype = "ScpiInstrument"\nresource = "ASRL{tmp_path}/alias::INSTR"\n'
            + "baud_rate = 19200\n"
        )
    )
    assert "with different baud_rate: 9600 and 19200" in problem


def test_what_knows_the_types_adds_its_findings_to_the_others(write):
    def check(generation, instrument):
        assert (generation, instrument.id) == ("v2", "a")
        yield Finding("wavelenght", "Unknown option 'wavelenght'", "did you mean 'wavelength'?")

    text = meter("v2", "a", more="# in vacuum\nwavelenght = 780\n") + "[catalogue]\n"
    assert problems_of(write(text), check=check) == [
        "Unknown option 'wavelenght' / did you mean 'wavelength'? / config.toml:6",
        "Unknown section [catalogue] / did you mean 'catalog'? / config.toml:7",
    ]


def test_a_configuration_made_in_code_is_checked_the_same_way():
    with pytest.raises(ConfigError, match=r"^'type' is missing in instrument 'a' / add a line: type = ...$"):
        DualConfig.from_mapping({"v2": {"instruments": [{"id": "a"}]}})


def test_ports_are_looked_for_only_when_asked(write, monkeypatch):
    monkeypatch.setattr("serial.tools.list_ports.comports", list)
    config = DualConfig.load(
        write(
            meter("v2", "a", "/dev/no-such-port")
            + meter("v2", "b", "/dev/null")
            + meter("v2", "c", "usb:0403:6001:FT0")
            + meter("v2", "d", "/dev/none", "enabled = false\n")
            + meter("v2", "e", "socket://192.0.2.1:4000")
            + meter("v2", "f", "ttyUSB99")
        ),
        environment={},
    )
    path = config.files[0]
    assert [str(problem) for problem in config.hardware_problems()] == [
        "Serial port '/dev/no-such-port' of instrument 'a' does not exist / connect the adapter; /dev/no-such-port "
        f"appears with it / {path}:4",
        "Serial port 'usb:0403:6001:FT0' of instrument 'c' is not there: no such USB adapter is plugged in / connect "
        f"the adapter; usb:0403:6001:FT0 appears with it / {path}:12",
        f"Serial port 'ttyUSB99' of instrument 'f' does not exist / write the whole path: /dev/ttyUSB99 / {path}:25",
    ]


def test_ports_that_are_there_are_suggested_for_one_that_is_not(write, monkeypatch):
    present = [SimpleNamespace(device=f"/dev/ttyUSB{number}") for number in (1, 0)]
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: present)
    config = DualConfig.load(write(meter("v2", "a", "/dev/no-such-port")), environment={})
    (problem,) = config.hardware_problems()
    assert problem.suggestion == "present are: /dev/ttyUSB0, /dev/ttyUSB1"


def test_a_port_that_may_not_be_used_names_the_group_to_join(write, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != "/dev/null")
    config = DualConfig.load(write(meter("v2", "a", "/dev/null")), environment={})
    (problem,) = config.hardware_problems()
    assert problem.message == "Serial port '/dev/null' of instrument 'a' may not be used by you"
    group = grp.getgrgid(os.stat("/dev/null").st_gid).gr_name
    assert problem.suggestion == f"join the group '{group}': sudo usermod -a -G {group} $USER, then log in anew"


def test_the_catalogs_directory_must_be_writable(write, tmp_path: Path):
    (tmp_path / "file").write_text("")
    assert problems_of(write('[catalog]\ndirectory = "file/runs"\n')) == [
        "The catalog's directory 'file/runs' cannot be used: file is no directory / choose a directory you may write "
        "to / config.toml:2"
    ]


def test_lines_are_found_around_every_form_of_value(write):
    text = (
        '''\
[application]
name = """
[v2]
id = "not a key"
"""   # comment with " and [
operator = 'it'''
        + """s me'
[[v4.instruments]]
id = "a"
type = "x:Y"
args = [
  "]", # [[
  1,
]
"quoted key" = 1
dotted.key = {inner = [1, 2]}
[v4.instruments.kwargs]
deep = 1
[[v4.instruments]]
id = "a"
type = "x:Y"
"""
    )
    (problem,) = problems_of(write(text))
    assert problem.endswith(":19")
    (problem,) = problems_of(write("[application]\n\n[catalogue.deep]\nx = 1\n"))
    assert problem.endswith(":3")
