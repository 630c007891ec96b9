"""Old configurations become new ones: by rule, with their comments, and never silently wrong."""

import json
import tomllib
from pathlib import Path

import pytest
import tomlkit
from corpus import RULE, old_files, outcome_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coexistence.config import DualConfig
from coexistence.migration import ConversionRefused, convert_file
from devices import registry
from profiles.migration import load_file, run_migrate

METER = '[instruments.power]\ntype = "newport_1830c"\nport = "/dev/ttyS0"\n'


def write(tmp_path: Path, text: str, name: str = "old.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", old_files(), ids=lambda path: path.stem)
def test_each_old_file_becomes_what_is_expected(path: Path):
    found, _ = outcome_of(path)
    assert found == path.with_suffix(".expected.txt").read_text()


def test_at_least_95_of_100_instruments_convert_without_a_hand(capsys: pytest.CaptureFixture[str]):
    conversions = [outcome_of(path)[1] for path in old_files()]
    total = sum(len(conversion.instruments) for conversion in conversions)
    without = sum(conversion.without_a_hand for conversion in conversions)
    with capsys.disabled():
        print(f"\n{without} of {total} instruments in {len(conversions)} old files convert without a hand", end=" ")
        print(f"({without / total:.1%})")
    assert len(conversions) >= 40
    assert without / total >= 0.95


def test_every_type_of_the_registry_has_a_rule():
    covered = {one.new_type for path in old_files() for one in outcome_of(path)[1].instruments if one.new_type}
    assert covered >= set(registry.type_names())


def test_no_comment_is_lost():
    for path in old_files():
        new = outcome_of(path)[0].partition(RULE)[2]
        for line in path.read_text().splitlines():
            if line.lstrip().startswith("#"):
                assert line.strip() in new, f"{path.name}: {line}"


def test_comments_of_empty_sections_and_at_the_end_are_kept(tmp_path: Path):
    comments = ["above", "in an empty one", "beside", "of data", "in no setting", "the last but one", "the last"]
    text = (
        f"{METER}# {comments[0]}\n[storage]\n# {comments[1]}\n[application]  # {comments[2]}\n"
        f'# {comments[3]}\n[data]\npath = "d"\n[x]\n# {comments[4]}\n[instruments.b]\ntype = "1830c"\n'
        f'port = "/dev/ttyS1"\n# {comments[5]}\n\n# {comments[6]}'
    )
    new = convert_file(write(tmp_path, text), load_file).text
    assert [one for one in comments if f"# {one}\n" not in new] == []


def test_a_converted_file_comes_back_as_it_is(tmp_path: Path):
    for path in old_files():
        first = convert_file(path, load_file).text
        again = convert_file(write(tmp_path, first), load_file)
        assert again.text == first, path.name


def test_instruments_can_stay_in_v2_with_shadows_beside_them(tmp_path: Path):
    conversion = convert_file(write(tmp_path, METER), load_file, to="v2", shadows=True)
    config = load_file(write(tmp_path, conversion.text, "new.toml"))
    assert [(g, i.id, i.shadow_of) for g, i in config.instruments()] == [
        ("v2", "power", None),
        ("v4", "power_shadow", "power"),
    ]
    again = convert_file(tmp_path / "new.toml", load_file, to="v2", shadows=True)
    assert again.text == conversion.text


def test_shadows_are_added_to_a_file_with_sections(tmp_path: Path):
    old = '[[v2.instruments]]\nid = "power"\ntype = "Newport1830C"\nserial_port = "/dev/ttyS0"  # the door\n'
    conversion = convert_file(write(tmp_path, old), load_file, to="v2", shadows=True)
    assert conversion.text == (
        old + '\n[[v4.instruments]]\nid = "power_shadow"\nshadow_of = "power"\ntype = "Newport1830C"\n'
        'serial_port = "/dev/ttyS0"\n'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[instruments.power\n", "TOML syntax: Expected ']' at the end of a table declaration (at line 1, column 19)"),
        ("[v2]\n[instruments.a]\n", "it has old [instruments] and new [v2] or [v4] sections. Put the old ones into"),
        ("[v2]\nenabeld = true\n", "it has problems of its own: Unknown setting 'enabeld' in [v2]"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_what_to_do(tmp_path: Path, text: str, message: str):
    path = write(tmp_path, text)
    with pytest.raises(ConversionRefused) as refused:
        convert_file(path, load_file)
    assert str(refused.value).startswith(f"{path} was not converted: ")
    assert message in str(refused.value)


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConversionRefused, match="it is not UTF-8 text"):
        convert_file(tmp_path / "bytes.toml", load_file)
    with pytest.raises(ConversionRefused, match=r"cannot be read \(No such file or directory\)"):
        convert_file(tmp_path / "none.toml", load_file)
    with pytest.raises(ConversionRefused, match="shadows stand beside instruments of v2"):
        convert_file(tmp_path / "none.toml", load_file, shadows=True)


def test_a_directory_nobody_can_write_to_is_kept_as_a_comment(tmp_path: Path):
    old = write(tmp_path, '[storage]\npath = "/proc/nowhere"\n' + METER)
    conversion = convert_file(old, load_file)
    assert '# directory = "/proc/nowhere"' in conversion.text
    assert conversion.notes[-1].startswith('directory = "/proc/nowhere" of old.toml kept as a comment: The catalog\'s')


@pytest.mark.parametrize(
    ("entry", "in_the_file", "told"),
    [
        (
            'type = "elliptec_bus"\nport = "/dev/ttyUSB0"\n'
            'devices = [{address = 2, enabled = false, velocity = 60, name = "q"}]',
            '# velocity = 60\n# name = "q"\n[[v4.instruments]]\nid = "one_2"\n'
            'type = "Elliptec"\nserial_port = "/dev/ttyUSB0"\naddress = "2"\nenabled = false\n',
            "velocity of one_2 kept as a comment",
        ),
        (
            'type = "esp300"\nport = "/dev/ttyUSB0"\naxes = [{enabled = false}, {name = "delay"}]',
            "axes = [2]\n",
            "disabled axes left out: [1]; axes = [1, 2] uses them, too",
        ),
        (
            'type = "esp300"\nport = "/dev/ttyUSB0"\naxis2 = {enabled = false}',
            "enabled = false\n",
            "disabled, as all of its axes were",
        ),
        (
            'type = "scpi"\nresource = "GPIB0::4::INSTR"\nqueries = {v = {query = "V?", scale = 2.0, unit = "V"}}',
            'signals = {v = {query = "V?", units = "V", kind = "hinted"}}\n',
            "scale = 2.0 of queries.v left out",
        ),
        ('type = "maitai"\nport = "/dev/ttyS0"\nwatchdog = 0.4', 'port = "/dev/ttyS0"\n', "0 would switch it off"),
        ('type = "pvcam"\ncamera_name = "c"\nexposure = 0.1', 'camera_name = "c"\n', "it may be s"),
        ('type = "1830c"\nport = "/dev/ttyS0"\nusb_vid = 1027', "# usb_vid = 1027\n", "usb_vid kept as a comment"),
    ],
)
def test_nothing_an_old_entry_says_is_lost_silently(tmp_path: Path, entry: str, in_the_file: str, told: str):
    conversion = convert_file(write(tmp_path, f"[instruments.one]\n{entry}\n"), load_file)
    assert in_the_file in conversion.text
    assert told in "\n".join(conversion.instruments[0].remarks)


def test_an_instrument_the_check_refuses_needs_a_hand_and_the_others_are_converted(tmp_path: Path):
    old = write(tmp_path, METER + '[instruments.rf]\ntype = "scpi"\nresource = "TCPIP0::::INSTR"\n')
    conversion = convert_file(old, load_file)
    assert [one.outcome for one in conversion.instruments] == ["converted", "needs a hand"]
    assert "Malformed VISA resource 'TCPIP0::::INSTR'" in conversion.instruments[1].reason
    assert [i.id for _, i in load_file(write(tmp_path, conversion.text, "new.toml")).instruments()] == ["power"]


def test_the_command_writes_the_file_tells_what_it_did_and_overwrites_nothing(typed, tmp_path: Path, monkeypatch):
    old = write(tmp_path, METER + 'units = 3\n[instruments.mock]\ntype = "mock"\n')
    monkeypatch.chdir(tmp_path)
    command = ("config", "migrate", old)
    done = typed(*command, "-o", "new.toml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "converted with a remark: power -> power (Newport1830C)\n  - units = 3 left out: codes" in done.stderr
    assert "needs a hand: mock\n  - a mock is on no wire" in done.stderr
    assert done.stderr.endswith("1 of 2 instruments converted without a hand (50%); written to new.toml\n")
    printed = typed(*command, "--json")
    assert printed.stdout == (tmp_path / "new.toml").read_text()
    told = json.loads(printed.stderr.splitlines()[-1])
    assert (told["total"], told["without_a_hand"], told["instruments"][1]["outcome"]) == (2, 1, "needs a hand")
    again = typed(*command, "-o", "new.toml")
    assert again.returncode == 1
    assert again.stderr == (
        "tandem: new.toml was not written: it is there already. Choose another name, or add --force.\n"
    )
    assert old.read_text().startswith("[instruments.power]")


def test_the_new_file_is_written_in_one_step_with_force(tmp_path: Path):
    old, new = write(tmp_path, METER), write(tmp_path, "# mine\n", "new.toml")
    new.chmod(0o640)
    options = {"to": "v4", "shadows": False, "json_output": False}
    assert run_migrate(old, output=new, force=True, **options) == 0
    assert "[[v4.instruments]]" in new.read_text()
    assert new.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.toml", "old.toml"]


OLD_TYPES = [
    "newport_1830c", "esp300", "maitai", "elliptec", "elliptec_bus", "ell14", "scpi", "scpi_v2", "visa_instrument",
    "dmm", "keithley_2000", "pvcam", "mock", "spectrometer", "ophyd.sim:SynAxis", "",
]  # fmt: skip
OLD_KEYS = [
    "port", "baud_rate", "flow_control", "device_addresses", "address", "devices", "timeout_ms", "timeout", "units",
    "axes", "axis", "num_axes", "axis1", "wavelength", "filter", "resource", "resource_string", "host", "gpib_address",
    "queries", "signals", "function", "camera_name", "exposure_ms", "roi", "binning", "enabled", "watchdog_ms",
    "parity", "terminator", "polling_rate_hz", "hwid_vid", "hwid_pid", "name", "setup", "home_mode", "something",
]  # fmt: skip
WORDS = st.sampled_from(
    ["/dev/ttyS0", "/dev/ttyUSB1", "COM3", "none", "hardware", "xon/xoff", "mm", "dBm", "2", "A", "G", "W", "internal",
     "TCPIP0::192.0.2.1::INSTR", "GPIB0::4::INSTR", "192.0.2.1:5025", "MEAS:VOLT?", "PrimeBSI", "volt", "true", "", "#"]
)  # fmt: skip
SCALARS = (
    WORDS | st.text(max_size=12) | st.booleans() | st.floats(width=32) | st.integers(-(2**63), 2**63 - 1)
    | st.integers(0, 20) | st.sampled_from([9600, 19200, 115200, 800.0, 1064.5, 1000]) | st.dates()
)  # fmt: skip
NAMES = st.sampled_from(["power", "bus", "stage-1", "1830c", "lambda", "Üb"]) | st.text(min_size=1, max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.sampled_from(OLD_KEYS), inner, max_size=3),
    max_leaves=6,
)
INSTRUMENTS = st.builds(
    lambda old_type, rest: {**rest, **({} if old_type is None else {"type": old_type})},
    st.none() | st.sampled_from(OLD_TYPES),
    st.dictionaries(st.sampled_from(OLD_KEYS), VALUES, max_size=8),
)
FLAT_FILES = st.fixed_dictionaries(
    {"instruments": st.dictionaries(NAMES, INSTRUMENTS, max_size=5) | st.lists(INSTRUMENTS, max_size=4)},
    optional={
        "storage": st.dictionaries(st.sampled_from(["path", "default_path", "default_format", "x"]), VALUES),
        "application": st.dictionaries(st.sampled_from(["name", "log_level", "operator", "x"]), VALUES),
        "log_level": SCALARS,
        "processors": VALUES,
        "devices": st.lists(INSTRUMENTS, max_size=2),
    },
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(FLAT_FILES, st.booleans())
def test_no_old_file_crashes_the_conversion_or_yields_a_file_that_is_refused(
    tmp_path_factory: pytest.TempPathFactory, values: dict, shadows: bool
):
    folder = tmp_path_factory.getbasetemp() / "random"
    folder.mkdir(exist_ok=True)
    old = write(folder, tomlkit.dumps(values))
    tomllib.loads(old.read_text(encoding="utf-8"))
    conversion = convert_file(old, load_file, to="v2" if shadows else "v4", shadows=shadows)
    config = load_file(write(folder, conversion.text, "new.toml"))
    assert isinstance(config, DualConfig)
    tables = values["instruments"]
    listed = list(tables.values()) if isinstance(tables, dict) else tables
    assert len(conversion.instruments) == len(listed) + len(values.get("devices", []))
    converted = [name for one in conversion.instruments for name in one.new_ids]
    ours = [i.id for section in (config.v2, config.v4) for i in section.instruments if i.shadow_of is None]
    assert ours == converted
    for one in conversion.instruments:
        assert bool(one.reason) != bool(one.new_ids)
