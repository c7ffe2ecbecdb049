"""Formats that run code when they are opened: each trick by name, and none of them opened."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib

import joblib
import numpy as np
import pytest
import torch
from gates.made_pickles import Marker
from onnx import TensorProto, helper

from kfm_mlflow.release.scan import scan_file, scan_release


def scanned(root, path, data=None):
    """Return the sentences about one file, after putting it there."""
    if data is not None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    sizes = {
        p.relative_to(root).as_posix(): p.stat().st_size for p in root.rglob("*") if p.is_file()
    }
    found = scan_file(root, path, sizes)
    assert all(sentence.startswith(f"{path}: ") for sentence in (*found.pickles, *found.formats))
    assert not (root / "ran").exists()
    return [*found.pickles, *found.formats]


def zipped(members, **options):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return held.getvalue()


def checkpoint():
    held = io.BytesIO()
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.save({"format": "x", "config": {"width": 3}, "state_dict": net.state_dict()}, held)
    return held.getvalue()


def members_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(item.filename, archive.read(item)) for item in archive.infolist()]


# -- checkpoints -------------------------------------------------------------------------------


def test_a_state_dict_is_plain(tmp_path):
    assert scanned(tmp_path, "m.pt", checkpoint()) == []


def test_a_whole_module_is_not_plain(tmp_path):
    torch.save(torch.nn.Conv2d(1, 2, 3), tmp_path / "m.pt")
    assert any("torch.nn.modules.conv.Conv2d" in found for found in scanned(tmp_path, "m.pt"))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_torchscript_is_a_program(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(tmp_path / "m.pt"))
    assert any("TorchScript" in found for found in scanned(tmp_path, "m.pt"))
    (tmp_path / "m.pt").rename(tmp_path / "weights.bin")
    assert any("TorchScript" in found for found in scanned(tmp_path, "weights.bin"))


def test_the_legacy_format_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert scanned(tmp_path, "m.pt")


def _commented(data):
    held = io.BytesIO(data)
    with zipfile.ZipFile(held, "a") as archive:
        archive.comment = b"PK\x05\x06"
    return held.getvalue()


def _changed(data, near, value):
    """Return the data with the byte replaced that begins at what stands there."""
    place = near(data)
    return data[:place] + value + data[place + len(value) :]


SPOILED = {
    "the pickle replaced": lambda good, evil: zipped(
        [(n, evil if n.endswith("data.pkl") else d) for n, d in members_of(good)]
    ),
    "a second pickle": lambda good, evil: zipped([*members_of(good), ("archive/extra.pkl", evil)]),
    "a second pickle without its name": lambda good, evil: zipped(
        [*members_of(good), ("archive/extra", evil)]
    ),
    "two of one name": lambda good, evil: zipped([*members_of(good), ("archive/data.pkl", evil)]),
    "two folders": lambda good, evil: zipped([*members_of(good), ("other/data.pkl", evil)]),
    "a name that leaves the folder": lambda good, _: zipped([*members_of(good), ("../../x", b"x")]),
    "bytes before the archive": lambda good, _: b"MZ" + good,
    "an archive before the archive": lambda good, evil: zipped([("a/data.pkl", evil)]) + good,
    "a comment": lambda good, _: _commented(good),
    "cut": lambda good, _: good[: len(good) // 2],
    "a wrong checksum": lambda good, _: _changed(good, lambda d: d.index(b"state_dict"), b"S"),
    "encrypted": lambda good, _: _changed(good, lambda d: d.index(b"PK\x01\x02") + 8, b"\x01"),
    "another name in its own header": lambda good, _: _changed(
        good, lambda d: d.index(b"data.pkl"), b"data.pkx"
    ),
    "no pickle": lambda good, _: zipped(
        [(n, d) for n, d in members_of(good) if not n.endswith(".pkl")]
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("how", SPOILED)
def test_a_checkpoint_that_was_tampered_with_is_refused(tmp_path, how):
    evil = pickle.dumps(Marker(tmp_path / "ran"), 2)
    assert scanned(tmp_path, "m.pt", SPOILED[how](checkpoint(), evil))


@pytest.mark.parametrize("name", ["m.pt", "weights.npz", "notes.zip"])
def test_a_zip_bomb_is_refused_and_not_unpacked(tmp_path, name):
    bomb = zipped(
        [("m/data.pkl", b"N."), ("m/zeros", bytes(80 * 2**20))], compression=zipfile.ZIP_DEFLATED
    )
    assert len(bomb) < 2**18
    assert any("unpacks to" in found for found in scanned(tmp_path, name, bomb))


def test_a_bomb_that_states_a_small_size_is_not_unpacked(tmp_path):
    bomb = zipped([("m/data.pkl", b"N" * 2**20)], compression=zipfile.ZIP_DEFLATED)
    place = bomb.index(b"PK\x01\x02") + 24
    lying = bomb[:place] + struct.pack("<I", 2) + bomb[place + 4 :]
    assert scanned(tmp_path, "m.pt", lying)


@pytest.mark.parametrize("data", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_what_cannot_be_scanned_is_a_problem(tmp_path, data):
    assert scanned(tmp_path, "m.pt", data)


# -- pickles by other names --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.bin", "README.md", "weights.safetensors", "data/0", "x"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_by_any_name_is_found(tmp_path, name, protocol):
    data = pickle.dumps(Marker(tmp_path / "ran"), protocol)
    assert any("would call" in found for found in scanned(tmp_path, name, data))


def test_a_pickle_behind_much_text_is_found(tmp_path):
    data = pickle.dumps(["x" * 200_000, Marker(tmp_path / "ran")], 4)
    assert any("would call" in found for found in scanned(tmp_path, "notes.txt", data))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
def test_a_packed_pickle_is_found(tmp_path, pack):
    data = pack(pickle.dumps(Marker(tmp_path / "ran")))
    assert any("would call" in found for found in scanned(tmp_path, "weights", data))
    assert scanned(tmp_path, "numbers", pack(b"1,2,3\n" * 100)) == []


@pytest.mark.parametrize("compress", [0, 3, ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_a_joblib_file_is_found(tmp_path, compress):
    joblib.dump({"a": np.zeros(3)}, tmp_path / "model.dat", compress=compress)
    assert any("would call" in found for found in scanned(tmp_path, "model.dat"))


def test_what_only_joblib_can_unpack_is_refused(tmp_path):
    assert scanned(tmp_path, "model.dat", b"\x04\x22\x4d\x18" + bytes(20))


def test_a_packed_pickle_in_packed_archives_is_found(tmp_path):
    inner = zipped([("a", gzip.compress(pickle.dumps(Marker(tmp_path / "ran"))))])
    assert any(
        "would call" in found for found in scanned(tmp_path, "x.zip", zipped([("b.zip", inner)]))
    )


def test_archives_in_archives_come_to_an_end(tmp_path):
    data = b"x"
    for _ in range(6):
        data = zipped([("a", data)])
    assert any("too many archives" in found for found in scanned(tmp_path, "x.zip", data))


def test_a_program_is_refused_by_whatever_name(tmp_path):
    assert scanned(tmp_path, "notes.txt", b"\x7fELF\x02\x01\x01" + bytes(60))


def test_a_file_that_became_a_link_is_not_followed(tmp_path):
    (tmp_path / "m.pt").write_bytes(checkpoint())
    (tmp_path / "n.pt").symlink_to(tmp_path / "m.pt")
    assert any("cannot be scanned" in f for f in scan_file(tmp_path, "n.pt", {"n.pt": 1}).formats)


# -- NumPy and Keras ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*pickle:DeprecationWarning")
@pytest.mark.parametrize("path", ["a.npy", "a.npz", "renamed.txt"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_numpy_files_hold_numbers_and_no_objects(tmp_path, path, version):
    def saved(array):
        held = io.BytesIO()
        np.lib.format.write_array(held, array, version=version)
        data = held.getvalue()
        return zipped([("a.npy", data)]) if path.endswith(".npz") else data

    assert scanned(tmp_path, path, saved(np.arange(3.0))) == []
    evil = np.array([Marker(tmp_path / "ran")], dtype=object)
    assert any("Python objects" in found for found in scanned(tmp_path, path, saved(evil)))
    record = np.array([(1, None)], dtype=[("a", "i4"), ("b", "O")])
    assert any("Python objects" in found for found in scanned(tmp_path, path, saved(record)))


@pytest.mark.parametrize(
    "header",
    [b"{'descr': __import__('os').system('true')}", b"{" * 300, b"{'descr': '|O'", b"\xff", b""],
)
def test_a_numpy_header_that_is_none_is_refused(tmp_path, header):
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    assert any("header" in found for found in scanned(tmp_path, "a.npy", data))


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ('{"class_name": "Dense", "module": "keras.layers"}', False),
        ('{"config": {"layers": [{"class_name": "Lambda"}]}}', True),
        ('{"class_name": "__lambda__"}', True),
        ('{"module": "os", "class_name": "system"}', True),
        ('{"module": "kerasevil.layers", "class_name": "Dense"}', True),
        ("{", True),
        ("[" * 100_000, True),
    ],
)
def test_keras_layers_that_carry_or_name_code_are_refused(tmp_path, config, found):
    data = zipped([("config.json", config), ("model.weights.h5", b"\x89HDF\r\n\x1a\n")])
    assert bool(scanned(tmp_path, "model.keras", data)) is found


def test_a_keras_lambda_in_hdf5_is_found_wherever_it_lies(tmp_path):
    magic = b"\x89HDF\r\n\x1a\n"
    for place in (100, 64 * 2**10 - 20, 2**20 + 64 * 2**10 - 20):
        data = magic + bytes(place) + b'{"class_name": "Lambda"}' + bytes(9)
        assert any("Lambda" in found for found in scanned(tmp_path, "m.h5", data))
    assert scanned(tmp_path, "m.h5", magic + bytes(200_000)) == []


def test_a_tensorflow_graph_is_refused(tmp_path):
    assert scanned(tmp_path, "saved_model.pb", b"\x08\x01")


# -- ONNX --------------------------------------------------------------------------------------


def model(*, nodes=(), initializers=(), functions=()):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        values[:1],
        values[1:],
        initializer=list(initializers),
    )
    return helper.make_model(graph, functions=list(functions))


def outside(location, **entries):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_an_onnx_model_of_standard_operators_is_plain(tmp_path):
    assert scanned(tmp_path, "m.onnx", model().SerializeToString()) == []


@pytest.mark.parametrize(
    "location",
    [
        "../w.bin",
        "/etc/passwd",
        "a/../../w.bin",
        "",
        "w\x00.bin",
        "missing.bin",
        "C:\\w.bin",
        "..\\w",
    ],
)
def test_onnx_data_outside_of_the_release_is_refused(tmp_path, location):
    (tmp_path / "w.bin").write_bytes(bytes(8))
    data = model(initializers=[outside(location)]).SerializeToString()
    assert any("lies in" in found for found in scanned(tmp_path, "sub/m.onnx", data))


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ({}, False),
        ({"offset": 4, "length": 4}, False),
        ({"offset": 4, "length": 5}, True),
        ({"offset": -1}, True),
        ({"length": "many"}, True),
    ],
)
def test_onnx_data_lies_within_a_file_of_the_release(tmp_path, entries, found):
    (tmp_path / "w.bin").write_bytes(bytes(8))
    data = model(initializers=[outside("w.bin", **entries)]).SerializeToString()
    assert bool(scanned(tmp_path, "m.onnx", data)) is found


def test_onnx_data_is_found_in_subgraphs_and_attributes(tmp_path):
    constant = helper.make_node("Constant", [], ["y"], value=outside("../w"))
    branch = helper.make_graph([constant], "b", [], [helper.make_tensor_value_info("y", 1, [1])])
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    assert any(
        "lies in" in f for f in scanned(tmp_path, "m.onnx", model(nodes=nodes).SerializeToString())
    )


def test_an_operator_of_another_domain_is_refused_unless_the_model_defines_it(tmp_path):
    nodes = [helper.make_node("PyOp", ["x"], ["y"], domain="ai.onnx.contrib")]
    found = scanned(tmp_path, "m.onnx", model(nodes=nodes).SerializeToString())
    assert found == ["m.onnx: needs a library for operator ai.onnx.contrib:PyOp"]
    relu = [helper.make_node("Relu", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 20)]
    own = helper.make_function("ai.onnx.contrib", "PyOp", ["a"], ["b"], relu, opset)
    defined = model(nodes=nodes, functions=[own])
    assert scanned(tmp_path, "m.onnx", defined.SerializeToString()) == []
    inner = [helper.make_node("Evil", ["a"], ["b"], domain="evil")]
    own = helper.make_function("ai.onnx.contrib", "PyOp", ["a"], ["b"], inner, opset)
    defined = model(nodes=nodes, functions=[own])
    assert any("evil:Evil" in f for f in scanned(tmp_path, "m.onnx", defined.SerializeToString()))


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"not onnx", pickle.dumps([1])])
def test_what_is_no_onnx_is_refused(tmp_path, data):
    assert scanned(tmp_path, "m.onnx", data)


# -- MLflow's own files ------------------------------------------------------------------------

PLAIN = {
    "flavors": {
        "onnx": {
            "onnx_version": "1.23.0",
            "data": "model.onnx",
            "providers": ["CPUExecutionProvider"],
            "code": None,
        },
        "python_function": {
            "loader_module": "mlflow.onnx",
            "data": "model.onnx",
            "env": {"conda": "conda.yaml"},
        },
    }
}


def mlmodel(flavor=None, *, top=None, **changes):
    import yaml

    flavors = {name: dict(conf) for name, conf in PLAIN["flavors"].items()}
    if flavor:
        flavors[flavor] = {**flavors.get(flavor, {}), **changes}
    return yaml.safe_dump({"flavors": flavors, **(top or {})}).encode()


@pytest.fixture
def release(tmp_path):
    (tmp_path / "model.onnx").write_bytes(model().SerializeToString())
    (tmp_path / "model.pt").write_bytes(checkpoint())
    return tmp_path


def test_a_model_that_mlflow_onnx_loads_is_plain(release):
    assert scanned(release, "MLmodel", mlmodel()) == []


@pytest.mark.parametrize(
    "data",
    [
        mlmodel("python_function", loader_module="mlflow.pyfunc.model"),
        mlmodel("python_function", loader_module="mlflow.sklearn"),
        mlmodel("python_function", loader_module="os"),
        mlmodel("python_function", loader_module="mlflow.onnx.evil"),
        mlmodel("python_function", loader_module=["mlflow.onnx"]),
        mlmodel("python_function", loader_module=None),
        mlmodel("python_function", data=["model.onnx"]),
        mlmodel("onnx", providers=3),
        mlmodel("python_function", code="code"),
        mlmodel("python_function", data="model.pt"),
        mlmodel("python_function", data="../model.onnx"),
        mlmodel("python_function", python_model="python_model.pkl"),
        mlmodel("onnx", code="code"),
        mlmodel("onnx", loader_module="os"),
        mlmodel("onnx", providers=[["TensorrtExecutionProvider", {"trt_extra_plugin_lib_paths": "x.so"}]]),
        mlmodel("onnx", onnx_session_options={"extra_session_config": {"a": "b"}}),
        mlmodel("sklearn", pickled_model="model.pkl"),
        mlmodel(top={"model_code_path": "model.py"}),
        b"flavors: !!python/object/apply:os.system [true]",
        b"flavors: []",
        b"flavors: {python_function: 3}",
        b"[]",
        b"\xff\xfe\x00",
        b"a: &a [*a]",
        b"[" * 50_000,
        b"",
    ],
)  # fmt: skip
def test_an_mlmodel_that_would_run_other_code_is_refused(release, data):
    assert scanned(release, "MLmodel", data)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("torch==2.13.0+cpu", False),
        ("numpy>=2  # see https://numpy.org", False),
        ("-r requirements.txt", False),
        ("-c constraints.txt", False),
        ("git+https://example.org/evil.git", True),
        ("evil @ file:///tmp/evil", True),
        ("--index-url http://evil", True),
        ("-e .", True),
        ("-fwheels", False),
        ("--find-links=wheels", True),
    ],
)
@pytest.mark.parametrize("name", ["requirements.txt", "conda.yaml"])
def test_requirements_come_from_the_readers_own_index(tmp_path, name, line, found):
    text = f"- pip:\n  - {line}\n" if name == "conda.yaml" else f"mlflow==3.17\n{line}\n"
    assert bool(scanned(tmp_path, name, text.encode())) is found


def test_a_whole_release_is_scanned_file_by_file(release):
    (release / "MLmodel").write_bytes(mlmodel())
    sizes = {path.name: path.stat().st_size for path in release.iterdir()}
    assert scan_release(release, sizes).pickles == ()
    assert scan_release(release, sizes).formats == ()
    (release / "notes.txt").write_bytes(pickle.dumps(Marker(release / "ran")))
    found = scan_release(release, {**sizes, "notes.txt": 1})
    assert [sentence.partition(":")[0] for sentence in found.pickles] == ["notes.txt"]
    assert not (release / "ran").exists()
