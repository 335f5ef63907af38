"""Netlists and S-parameters: round trips, other programs' files, and what is refused."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import unitary_group

from meshes import Phases, RectangularMesh
from meshes.interchange import (
    SParameters,
    from_netlist,
    linear_layer,
    netlist,
    read_netlist,
    read_sparameters,
    two_by_two,
    write_netlist,
    write_touchstone,
)
from meshes.plotting import fields_by_column


def some_mesh(units, columns=None, seed=1, **fabrication):
    mesh = RectangularMesh(units, columns, **fabrication)
    rng, grid = np.random.default_rng(seed), mesh.mask.shape
    return mesh, Phases(*(rng.uniform(-4, 4, shape) for shape in (grid, grid, units)))


def matrix(mesh, phases):
    return fields_by_column(mesh, phases, np.eye(mesh.units))[-1]


# sax's stock models, from its documentation: amplitudes from in to out.
MODELS = {
    "coupler_ideal": lambda coupling: {
        (0, 0): np.sqrt(1 - coupling),
        (0, 1): 1j * np.sqrt(coupling),
        (1, 0): 1j * np.sqrt(coupling),
        (1, 1): np.sqrt(1 - coupling),
    },
    "phase_shifter": lambda length, voltage: {(0, 0): np.exp(1j * np.pi * voltage) + 0 * length},
    "attenuator": lambda loss: {(0, 0): 10 ** (-loss / 20)},
}


def evaluated(content):
    """The matrix of a netlist, from its outputs back to its inputs."""
    parts = {
        name: MODELS[part["component"]](**part["settings"])
        for name, part in content["instances"].items()
    }
    sources = {end: start for start, end in content["connections"].items()}
    inputs = {end: int(name[2:]) for name, end in content["ports"].items() if name[:2] == "in"}
    units, known = len(inputs), {}

    def field(end):
        """What leaves an instance's output, for light in each input."""
        if end not in known:
            name, out = end.split(",out")
            known[end] = sum(
                amplitude * entering(f"{name},in{arm}")
                for (arm, to), amplitude in parts[name].items()
                if to == int(out)
            )
        return known[end]

    def entering(end):
        return np.eye(units)[inputs[end]] if end in inputs else field(sources[end])

    return np.stack([field(content["ports"][f"out{port}"]) for port in range(units)], axis=1)


MESHES = [
    (2, 1, {}),
    (2, 3, {}),
    (3, 3, {"splitter_error": 0.1}),
    (4, 3, {}),
    (5, 6, {"insertion_loss_db": 0.2}),
    (6, 6, {"splitter_error": 0.05, "loss_imbalance_db": 0.3}),
    (7, 1, {"loss_imbalance_db": 0.3}),
]


class TestNetlists:
    @pytest.mark.parametrize(("units", "columns", "fabrication"), MESHES)
    def test_a_netlist_has_the_matrix_of_its_mesh(self, units, columns, fabrication):
        mesh, phases = some_mesh(units, columns, **fabrication)
        content = netlist(mesh, phases)
        np.testing.assert_allclose(evaluated(content), matrix(mesh, phases), atol=1e-12)

    @pytest.mark.parametrize("suffix", ["json", "yml", "yaml"])
    @pytest.mark.parametrize(("units", "columns", "fabrication"), MESHES)
    def test_a_file_gives_back_the_mesh(self, tmp_path, units, columns, fabrication, suffix):
        mesh, phases = some_mesh(units, columns, **fabrication)
        write_netlist(tmp_path / f"mesh.{suffix}", mesh, phases)
        again, read = read_netlist(tmp_path / f"mesh.{suffix}")
        assert (again.units, again.num_columns) == (units, columns)
        np.testing.assert_allclose(matrix(again, read), matrix(mesh, phases), atol=1e-12)
        assert all(((x >= 0) & (x < 2 * np.pi)).all() for x in read)  # as heaters need them

    def test_phases_anywhere_and_nets_are_understood(self):
        mesh, phases = some_mesh(4, 4)
        content = netlist(mesh, phases)
        shifter = {"component": "phase_shifter", "settings": {"length": 0, "voltage": 0.3}}
        for number, (start, end) in enumerate(list(content["connections"].items())[::3]):
            if "theta" in start + end:  # both arms alike, or theta would change
                continue
            content["instances"][f"more_{number}"] = shifter
            content["connections"][start] = f"more_{number},in0"
            content["connections"][f"more_{number},out0"] = end
        np.testing.assert_allclose(matrix(*from_netlist(content)), evaluated(content), atol=1e-12)
        nets = [{"p1": b, "p2": a} for a, b in content.pop("connections").items()]
        again = from_netlist(content | {"nets": nets})
        connections = {net["p2"]: net["p1"] for net in nets}
        expected = evaluated(content | {"connections": connections})
        np.testing.assert_allclose(matrix(*again), expected, atol=1e-12)

    def test_sax_computes_the_same_matrix(self):
        sax = pytest.importorskip("sax")
        mesh, phases = some_mesh(5, 4, splitter_error=0.1, loss_imbalance_db=0.2)
        models = {name: getattr(sax.models, name) for name in MODELS}
        circuit, _ = sax.circuit(netlist(mesh, phases), models)
        found = sax.sdict(circuit())
        made = [[found[f"in{i}", f"out{o}"].item() for o in range(5)] for i in range(5)]
        np.testing.assert_allclose(made, matrix(mesh, phases), atol=1e-5)

    def test_couplers_beyond_a_quarter_turn_have_no_ideal_coupler(self):
        errors = np.full((2, 2, 1), -0.8)
        mesh = RectangularMesh.measured(2, 2, errors)
        with pytest.raises(ValueError, match=r"within pi / 4 .* -0\.8 in coupler1_0_0"):
            netlist(mesh, mesh.initial_phases())


def broken(change):
    content = netlist(*some_mesh(4, 2))
    change(content)
    return content


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        if value is None:
            del content[keys[-1]]
        else:
            content[keys[-1]] = value

    return change


LOSSY, GAINING = ({"component": "attenuator", "settings": {"loss": x}} for x in (1, -1))
SETTINGS = ("instances", "phi_0_0", "settings")
NO_MESH = [
    (put("instances", value=None), "instances must be a mapping"),
    (put("ports", value=[]), "ports must be a mapping"),
    (put("ports", "in3", value=None), "ports must be in0"),
    (put("ports", "out0", value="x,out0"), "connections must say where .*,out0 leads"),
    (put("ports", "out0", value=3), "instance,in0"),
    (put("connections", "gamma_0,out0", value=None), "where gamma_0,out0 leads"),
    (put("connections", "gamma_0,out0", value="none,in0"), "instances must have none"),
    (put("connections", "gamma_0,out0", value="gamma_1,in0"), "join two free ends|passed once"),
    (put("connections", "x,out0", value="x,out0"), "two free ends"),
    (put("instances", "spare", value="attenuator"), "not spare"),
    (put("instances", "phi_0_0", "component", value="mzi"), "component of phi_0_0 must be one of"),
    (put(*SETTINGS, "length", value=None), "length of phi_0_0 must be 0"),
    (put(*SETTINGS, "volts", value=1), "settings of phi_0_0 must be .*found volts"),
    (put(*SETTINGS, "voltage", value="x"), "voltage of phi_0_0 must be a number"),
    (put(*SETTINGS, "voltage", value=float("nan")), "voltage of phi_0_0 must be finite"),
    (put("instances", "coupler1_0_0", "settings", "coupling", value=1.1), "must be at most 1"),
    (
        put("instances", "gamma_0", value=GAINING),
        "-1",
    ),
    (
        put("instances", "theta_upper_0_0", value={"component": "coupler_ideal"}),
        "rectangular mesh|where",
    ),
    (
        put("instances", "gamma_0", value=LOSSY),
        "in0 must lose no light",
    ),
    (
        put(
            "instances",
            "theta_upper_0_0",
            value=LOSSY,
        ),
        "as much in both arms, found 1 and 0",
    ),
]


class TestNoMesh:
    @pytest.mark.parametrize(("change", "message"), NO_MESH)
    def test_refuses(self, tmp_path, change, message):
        (tmp_path / "mesh.json").write_text(json.dumps(broken(change)))
        with pytest.raises(ValueError, match=rf"^\S*mesh\.json: [^\n]*({message})[^\n]*$"):
            read_netlist(tmp_path / "mesh.json")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("x.json", "{", "cannot be read as a netlist"),
            ("x.json", "[" * 10**5, "cannot be read as a netlist"),
            ("x.json", "[]", "a netlist must be a mapping, found a list"),
            ("x.yml", "a: &x 1\nb: *x\n", "no anchors"),
            ("x.yml", "!!python/object/apply:os.system [true]", "cannot be read"),
            ("x.yml", "a: [", "cannot be read"),
            ("x.txt", "", r"one of \.json, \.yml, \.yaml; got '\.txt'"),
        ],
    )
    def test_refuses_files(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            read_netlist(tmp_path / name)


def measured(ports, count=3, seed=0):
    frequencies = np.linspace(190e12, 195e12, count)
    rng = np.random.default_rng(seed)
    made = [
        rng.normal(size=(ports, ports)) + 1j * rng.normal(size=(ports, ports)) for _ in range(count)
    ]
    return SParameters(frequencies, np.stack([m / np.linalg.norm(m, 2) for m in made]))


class TestSParameters:
    @pytest.mark.parametrize("ports", [1, 2, 3, 4, 5, 9])
    def test_touchstone_gives_back_every_bit(self, tmp_path, ports):
        parameters = measured(ports)
        path = tmp_path / f"x.s{ports}p"
        write_touchstone(path, parameters)
        again = read_sparameters(path)
        np.testing.assert_array_equal(again.matrices, parameters.matrices)
        np.testing.assert_array_equal(again.frequencies, parameters.frequencies)
        assert max(map(len, path.read_text().split("\n"))) < 300

    @pytest.mark.parametrize("form", ["RI", "MA", "DB"])
    def test_the_forms_of_touchstone(self, tmp_path, form):
        parts = {
            "RI": lambda z: (z.real, z.imag),
            "MA": lambda z: (abs(z), np.angle(z, deg=True)),
            "DB": lambda z: (20 * np.log10(abs(z)), np.angle(z, deg=True)),
        }
        parameters = measured(2)
        rows = [f"! by hand\n# thz s {form} r 50"]
        for frequency, s in zip(parameters.frequencies, parameters.matrices, strict=True):
            numbers = [x for z in (s[0, 0], s[1, 0], s[0, 1], s[1, 1]) for x in parts[form](z)]
            rows.append(" ".join(map(repr, map(float, [frequency / 1e12, *numbers]))) + " ! end")
        (tmp_path / "x.S2P").write_text("\r\n".join(rows))
        again = read_sparameters(tmp_path / "x.S2P")
        np.testing.assert_allclose(again.matrices, parameters.matrices, atol=1e-12)
        np.testing.assert_allclose(again.frequencies, parameters.frequencies)

    @pytest.mark.parametrize(
        ("frequencies", "change", "message"),
        [
            ([2e14, 1.9e14], 0, r"frequencies must rise from above 0, found 1\.9e\+14 Hz"),
            ([0.0, 2e14], 0, "frequencies must rise from above 0, found 0 Hz"),
            ([1.9e14, np.nan], 0, "frequencies must rise from above 0, found nan Hz"),
            ([1.9e14, 2e14], np.nan, "matrices must be finite"),
            ([1.9e14], 0, r"\[F\] and \[F, N, N\].*got shapes \(1,\) and \(2, 2, 2\)"),
        ],
    )
    def test_what_no_file_may_hold_is_refused_before_one_is_written(
        self, frequencies, change, message
    ):
        with pytest.raises(ValueError, match=message):
            SParameters(np.array(frequencies), np.full((2, 2, 2), 0.1 + change + 0j))

    def test_scikit_rf_reads_and_writes_the_same(self, tmp_path):
        skrf = pytest.importorskip("skrf")
        parameters = measured(4)
        write_touchstone(tmp_path / "x.s4p", parameters)
        network = skrf.Network(str(tmp_path / "x.s4p"))
        np.testing.assert_allclose(network.s, parameters.matrices, atol=1e-12)
        network.write_touchstone("y", dir=str(tmp_path))
        again = read_sparameters(tmp_path / "y.s4p")
        np.testing.assert_allclose(again.matrices, parameters.matrices, atol=1e-9)

    @pytest.mark.parametrize("descending", [False, True])
    def test_lumerical_files(self, tmp_path, descending):
        parameters, order = measured(4), slice(None, None, -1 if descending else 1)
        rows = ['["port 1","LEFT"]', '["port 10","RIGHT"]']
        names = ["port 1", "port 2", "port 3", "port 10"]
        for out, source in np.ndindex(4, 4):
            rows += [f'("{names[out]}","TE",1,"{names[source]}",1,"transmission")', "(3, 3)"]
            z = parameters.matrices[order, out, source]
            table = np.stack([parameters.frequencies[order], np.abs(z), np.angle(z)], axis=1)
            rows += [" ".join(map(repr, row)) for row in table.tolist()]
        (tmp_path / "x.sparam").write_text("\n".join(rows))
        again = read_sparameters(tmp_path / "x.sparam")
        np.testing.assert_allclose(again.matrices, parameters.matrices, atol=1e-12)
        np.testing.assert_allclose(again.frequencies, parameters.frequencies)

    def test_one_wavelength(self):
        parameters = measured(2)
        nanometres = 299792458 / parameters.frequencies * 1e9
        np.testing.assert_allclose(parameters.at(nanometres[1]), parameters.matrices[1], atol=1e-9)
        np.testing.assert_allclose(parameters.at(nanometres[2]), parameters.matrices[2], atol=1e-9)
        middle = 299792458 / parameters.frequencies[:2].mean() * 1e9
        size, phase = np.abs(parameters.matrices[:2]), np.angle(parameters.matrices[:2])
        expected = size.mean(axis=0) * np.exp(1j * np.unwrap(phase, axis=0).mean(axis=0))
        np.testing.assert_allclose(parameters.at(middle), expected, atol=1e-9)
        with pytest.raises(ValueError, match=r"from 1537\.\d* to 1577\.\d*, got 1300"):
            parameters.at(1300)

    @pytest.mark.parametrize("turn", [0.5, 2.0, 3.0])
    def test_a_delay_between_the_samples_loses_no_light(self, turn):
        """A coupler with a waveguide behind it, whose phase turns from sample to sample."""
        coupler = np.array([[0, 1], [1, 0]]), np.array([[1, 1j], [1j, 1]]) / np.sqrt(2)
        frequencies = 193e12 + 1e11 * np.arange(3)
        delays = np.exp(1j * turn * np.arange(3))[:, None, None]
        parameters = SParameters(frequencies, np.kron(*coupler) * delays)
        for share in (0.25, 0.5):
            wavelength = 299792458 / (frequencies[0] + share * 1e11) * 1e9
            matrix = parameters.at(wavelength)
            np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(4), atol=1e-9)
            expected = np.kron(*coupler) * np.exp(1j * turn * share)
            np.testing.assert_allclose(matrix, expected, atol=1e-9)

    def test_an_entry_that_is_dark_at_a_sample_grows_from_there(self):
        matrices = np.array([[[0, 1], [1, 0]], [[0.2j, 1], [1, 0]]], complex)
        parameters = SParameters(np.array([193e12, 193.2e12]), matrices)
        found = parameters.at(299792458 / 193.1e12 * 1e9)
        np.testing.assert_allclose(found, [[0.1j, 1], [1, 0]], atol=1e-9)

    @settings(max_examples=50, deadline=None)
    @given(
        st.floats(-0.7, 0.7),
        st.tuples(*[st.floats(0, 6.28)] * 3),
        st.floats(0, 10),
    )
    def test_a_coupler_of_two_inputs_and_two_outputs(self, error, phases, loss):
        before, after, common = phases
        keep, cross = np.cos(np.pi / 4 - error), 1j * np.sin(np.pi / 4 - error)
        made = np.array([[keep, cross], [cross, keep]]) * np.exp(1j * common) * 10 ** (-loss / 20)
        made = np.exp([1j * before, 0])[:, None] * made * np.exp([1j * after, 0])
        found = two_by_two(linear_layer(np.block([[np.zeros((2, 4))], [made.T, np.zeros((2, 2))]])))
        assert found.error == pytest.approx(error, abs=1e-9)
        assert found.loss == pytest.approx(loss, abs=1e-9)
        assert np.exp(1j * np.array(found[2:5])) == pytest.approx(np.exp(1j * np.array(phases)))
        assert found.misfit < 1e-9

    @pytest.mark.parametrize("theta", [0.0, 1e-12, 0.4, 2.0, np.pi])
    def test_an_interferometer(self, theta):
        mesh = RectangularMesh(2, 1)
        phases = Phases(np.full((1, 1), theta), np.full((1, 1), 0.7), np.array([0.3, 0.1]))
        found = two_by_two(matrix(mesh, phases))
        assert found.theta == pytest.approx(theta, abs=1e-9)
        assert found.loss == pytest.approx(0, abs=1e-12)
        assert found.misfit < 1e-9

    def test_a_block_is_a_layer(self):
        s = unitary_group.rvs(5, random_state=1)
        np.testing.assert_array_equal(linear_layer(s, [0, 4], [1, 2, 3]), s[1:4][:, [0, 4]].T)
        assert linear_layer(s).shape == (2, 3)
        for ports in ([0, 0], [], [5], [-1]):
            with pytest.raises(ValueError, match="inputs must be different ports from 0 to 4"):
                linear_layer(s, ports)
        with pytest.raises(ValueError, match=r"matrix must be \[N, N\]"):
            linear_layer(s[0])
        with pytest.raises(ValueError, match=r"layer must be \[2, 2\]"):
            two_by_two(s)


ROW = "1 0.1 0 0.9 0 0.9 0 0.1 0\n"
BLOCK = '("b","TE",1,"a",1,"transmission")\n(1,3)\n1e14 0.5 0\n'


class TestBadSParameters:
    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("x.s2p", "# GHZ S RI R 50\n1 2 0 0 0 0 0 0 0\n", "line 2: .* not gain, .* of 2;"),
            ("x.s2p", "# GHZ S DB R 50\n1 9999 0 0 0 0 0 0 0\n", "line 2: .* not gain"),
            ("x.s2p", "# GHZ S RI\n1 nan 0 0 0 0 0 0 0\n", "line 2: .* finite"),
            ("x.s2p", "1 x\n", "line 1: must hold numbers, found 'x'"),
            ("x.s2p", "1 0 0\n", "line 2: must hold 9 numbers .* of 2 ports, found 3"),
            ("x.s3p", ROW, "line 2: must hold 19 numbers for each frequency of 3 ports, found 9"),
            ("x.s1p", "1 0 0 0\n", "line 1: .* 3 numbers of a frequency of 1 ports, found 4"),
            ("x.s2p", ROW + ROW, "line 2: frequencies must rise"),
            ("x.s2p", "", "must hold 9 numbers"),
            ("x.s2p", "# GHZ Y RI\n" + ROW, "line 1: must be # UNIT S FORM R x, found Y"),
            ("x.s2p", "# GHZ S RX\n" + ROW, "found RX"),
            ("x.s2p", "[Version] 2.0\n" + ROW, "line 1: must be Touchstone version 1"),
            ("x.s9999p", "1 0\n", "must hold 199960003 numbers"),
            ("x.sparam", "", "must have a block"),
            ("x.sparam", "x\n", r'line 1: must be \("out","mode",1,"in",1,"transmission"\)'),
            ("x.sparam", BLOCK.split("(1,")[0], "line 2: must be .count, 3"),
            ("x.sparam", BLOCK.replace("(1,3)", "(999999999,3)"), "line 4: .* of 999999999 rows"),
            ("x.sparam", BLOCK.replace("0.5", "1.5"), "line 3: .* not gain"),
            ("x.sparam", BLOCK.replace("0.5", "inf"), "line 3: .* finite"),
            ("x.sparam", BLOCK + BLOCK, "line 4: must have each pair of ports once"),
            ("x.sparam", BLOCK + BLOCK.replace("1e14", "2e14").replace('"b"', '"c"'), "line 6:"),
            ("x.sparam", BLOCK.replace('"a",1', '"a",2'), "line 1: must have one mode"),
            ("x.sparam", BLOCK + BLOCK.replace("TE", "TM").replace('"b"', '"c"'), "one mode"),
        ],
    )
    def test_refuses_with_file_and_line(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"^\S*{re.escape(name)}(, line \d+)?: .*"):
            read_sparameters(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            read_sparameters(tmp_path / name)

    def test_measured_ones_may_gain_a_little(self, tmp_path):
        (tmp_path / "x.s1p").write_text("# GHZ S RI\n1 1.005 0\n")
        assert abs(read_sparameters(tmp_path / "x.s1p").matrices[0, 0, 0]) == 1.005
        with pytest.raises(ValueError, match="not gain"):
            read_sparameters(tmp_path / "x.s1p", gain=0.001)

    def test_suffixes(self, tmp_path):
        with pytest.raises(ValueError, match=r"suffix of S-parameters must be .*got '\.s0p'"):
            read_sparameters(tmp_path / "x.s0p")
        with pytest.raises(ValueError, match=r"one of \.s2p; got '\.s3p'"):
            write_touchstone(tmp_path / "x.s3p", measured(2))
        with pytest.raises(ValueError, match=r"x\.s2p: No such file"):
            read_sparameters(tmp_path / "x.s2p")


def test_a_full_disk_leaves_the_old_files(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    writes = {
        "x.json": lambda path: write_netlist(path, *some_mesh(3)),
        "x.s2p": lambda path: write_touchstone(path, measured(2)),
    }
    monkeypatch.setattr("meshes.files.os.fsync", full)
    for name, write in writes.items():
        (tmp_path / name).write_text("old")
        with pytest.raises(OSError, match=f"No space left on device: .*{name}"):
            write(tmp_path / name)
        assert (tmp_path / name).read_text() == "old"


@pytest.mark.parametrize("passed", [1.01, 0.0])
def test_light_that_a_netlist_cannot_pass_is_refused(passed):
    mesh = RectangularMesh.measured(3, 2, transmission=np.full((2, 3), passed))
    with pytest.raises(ValueError, match="transmission must be above 0 and at most 1"):
        netlist(mesh, mesh.initial_phases())
