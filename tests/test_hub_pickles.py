"""PyTorch files whose pickles are hostile: refused in one line, quickly, and nothing happens."""

import pickle
import socket
import struct
import tracemalloc

import pytest
from hostile import (
    DATA,
    attempt,
    call,
    dict_of,
    integer,
    legacy,
    name,
    refused,
    storage,
    tensor,
    text,
    tuple_of,
    watched,
    zipped,
)

CONTAINERS = pytest.mark.parametrize("container", [zipped, legacy])


def test_the_watch_sees(tmp_path):
    with watched() as found:
        (tmp_path / "x").write_text("")
        socket.socket().close()
        pickle.loads(b"cos\nsystem\n(S'true'\ntR.")
    events = [event.split()[0] for event in found]
    assert events == ["open", "socket.__new__", "pickle.find_class", "os.system"]


# --- The assembler makes good files, or refusals would prove nothing ------------------------------


@CONTAINERS
def test_good_files(container, tmp_path):
    good = {"w": tensor(), "row": tensor((2,), (1,), 2), "square": tensor((2, 2), (1, 2))}
    for value in (dict_of(**good), dict_of(state_dict=dict_of(**good), epoch=integer(3))):
        (tmp_path / "w.pth").write_bytes(container(value))
        assert {k: v.tolist() for k, v in attempt(tmp_path / "w.pth").items()} == {
            "w": [0, 1, 2, 3],
            "row": [2, 3],
            "square": [[0, 2], [1, 3]],
        }


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (("optimizer", "model", "state_dict", "model_state_dict"), 2),
        (("state_dict_ema", "model_state_dict", "model"), 2),
        (("state_dict_ema", "model_state_dict"), 1),
        (("optimizer", "state_dict_ema"), 1),
    ],
)
def test_where_a_checkpoint_has_its_tensors(keys, chosen, tmp_path):
    value = {key: dict_of(w=tensor((1,), (1,), at)) for at, key in enumerate(keys)}
    (tmp_path / "w.pth").write_bytes(zipped(dict_of(**value)))
    assert attempt(tmp_path / "w.pth")["w"].tolist() == [chosen]


@CONTAINERS
def test_options_and_scores_beside_the_weights_are_left_out(container, tmp_path):
    import argparse

    import numpy as np

    beside = {
        "args": argparse.Namespace(lr=0.1, arch="resnet18"), "best": np.float64(0.5),
        "rng": np.arange(3), "epoch": 3,
    }  # fmt: skip
    for protocol in (2, 4):
        # Without the header and the end, as one value among those of the assembler.
        body = pickle.dumps(beside, protocol)[2:-1]
        body = body[9:] if protocol == 4 else body
        value = dict_of(state_dict=dict_of(w=tensor((1,), (1,), 2)), more=body)
        (tmp_path / "w.pth").write_bytes(container(value))
        with watched() as seen:
            assert attempt(tmp_path / "w.pth")["w"].tolist() == [2]
        assert not [event for event in seen if "find_class" in event]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "_orig_mod.module."])
def test_a_prefix_of_all_names_goes(prefix, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(zipped(dict_of(**{f"{prefix}a": tensor(), f"{prefix}b.w": tensor()})))
    assert list(attempt(path)) == ["a", "b.w"]


def test_the_prefix_of_data_parallel_goes_if_all_have_it(tmp_path):
    path = tmp_path / "w.pth"
    tensors = {"module.a": tensor(), "module.module.b": tensor()}
    path.write_bytes(zipped(dict_of(**tensors)))
    assert list(attempt(path)) == ["a", "module.b"]
    path.write_bytes(zipped(dict_of(**tensors, c=tensor())))
    assert list(attempt(path)) == ["module.a", "module.module.b", "c"]


# --- Pickles --------------------------------------------------------------------------------------

TOUCH = text("touch canary")
CALLS = [
    *("os.system", "posix.system", "nt.system", "os.popen", "os.execl", "subprocess.Popen"),
    *("builtins.eval", "builtins.exec", "builtins.getattr", "builtins.open", "__builtin__.eval"),
    *("builtins.__import__", "torch.hub.load", "torch.load", "torch.storage._load_from_bytes"),
    *("numpy.load", "numpy.f2py.compile", "pickle.loads"),
    *("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.add_extension"),
    *("operator.attrgetter", "functools.partial", "importlib.import_module", "runpy.run_path"),
    *("socket.create_connection", "shutil.rmtree", "ctypes.CDLL", "webbrowser.open", "sys.exit"),
    *("types.FunctionType", "code.interact", "models.resnet.ResNet", "argparse.ArgumentParser"),
    *("numpy.core.multiarray.fromfile",),
    *("collections.OrderedDict.__init__", "torch.Tensor", "jaxdl.main.main"),
]


@pytest.mark.parametrize("function", CALLS)
@CONTAINERS
def test_what_a_pickle_asks_for_is_refused_by_name(function, container, tmp_path):
    module, _, attribute = function.rpartition(".")
    words = text(module) + text(attribute) + b"\x93"
    for value in (
        call(function, TOUCH),
        name(function) + tuple_of(TOUCH) + b"\x81",  # NEWOBJ
        b"(" + name(function) + TOUCH + b"o",  # OBJ
        name(function) + dict_of(x=TOUCH) + b"b",  # BUILD
        words + tuple_of(TOUCH) + b"R",
        name("collections.OrderedDict") + tuple_of(call(function, TOUCH)) + b"R",
    ):
        refused(
            tmp_path / "w.pth",
            container(dict_of(w=tensor(), x=value)),
            f"asks for {function}: refused",
        )
    inst = b"(" + TOUCH + f"i{module}\n{attribute}\n".encode()
    refused(tmp_path / "w.pth", container(inst), f"INST {module} {attribute}")


ORDERED = call("collections.OrderedDict")
LAUGHS = b")" + b"q\x00h\x00\x86" * 60  # a pair of a pair of a pair: 2^60 tuples, if one looks
DEEP = b")" + b"\x85" * 200_000
PAIRS = b"](" + (b"](" + text("k") + b"Ne") * 30_000 + b"eq\x01"  # many [k, None] in a memo
PICKLES = {
    "a dict is called": (ORDERED + b")R", "calls a dict"),
    "a string is called": (TOUCH + b")R", "calls a str"),
    "a storage is called": (call("torch.FloatStorage", integer(10**12)), "calls torch.FloatSt"),
    "a dtype is called": (call("torch.float32", TOUCH), "calls torch.float32"),
    "laughs are called": (LAUGHS + b")R", "calls a tuple"),
    "no arguments": (name("collections.OrderedDict") + b"NR", "calls collections.OrderedDict"),
    "a dict of a number": (call("collections.OrderedDict", integer(5)), "describes a dict"),
    "a dict of laughs": (call("collections.OrderedDict", LAUGHS), "describes a dict"),
    "a tensor of a number": (call("torch._utils._rebuild_tensor", integer(5)), "a tensor in an"),
    "a parameter of text": (call("torch._utils._rebuild_parameter", TOUCH), "a parameter in"),
    "a size of a number": (call("torch.Size", integer(5)), "describes a shape"),
    "NEWOBJ": (name("torch.FloatStorage") + b")\x81", "calls torch.FloatStorage: refused"),
    "NEWOBJ_EX": (name("collections.OrderedDict") + b")}\x92", "opcode NEWOBJ_EX"),
    "OBJ": (b"(" + name("collections.OrderedDict") + b"o", "opcode OBJ"),
    "INST": (b"(icollections\nOrderedDict\n", "opcode INST"),
    "EXT1": (b"\x82\x01", "opcode EXT1"),
    "EXT2": (b"\x83\x01\x00", "opcode EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "opcode EXT4"),
    "PERSID": (b"Pstorage\n", "opcode PERSID"),
    "BYTEARRAY8": (b"\x96" + struct.pack("<Q", 2**62), "its pickle is broken"),
    "BINBYTES8": (b"\x8e" + struct.pack("<Q", 2**62), "its pickle is broken"),
    "BINUNICODE8": (b"\x8d" + struct.pack("<Q", 2**62), "its pickle is broken"),
    "FRAME": (b"\x95" + b"\xff" * 8 + b"N", "it holds a NoneType"),
    "LONG4": (b"\x8b" + struct.pack("<i", 9999) + b"\1" * 9999, "its pickle"),
    "INT": (b"I" + b"9" * 9999 + b"\n", "its pickle is broken"),
    "an unknown opcode": (b"\xff", "its pickle is broken"),
    "state for a dict": (ORDERED + dict_of(__class__=TOUCH) + b"b", "sets the state of a dict"),
    "state for a name": (name("torch.float32") + dict_of(x=TOUCH) + b"b", "sets the state"),
    "state for a tensor": (tensor() + dict_of(storage=TOUCH) + b"b", "sets the state"),
    "laughs as a state": (ORDERED + LAUGHS + b"b", "sets the state"),
    "a name of numbers": (integer(1) * 2 + b"\x93", "without a name"),
    "a name of laughs": (LAUGHS + b"h\x00\x93", "without a name"),
    "a name with an escape": (b"c\\x6fs\nsystem\n)R", "asks for os.system: refused"),
    "a name with a wrong escape": (b"c\\qs\nsystem\n)R", "its pickle is broken"),
    "a name with a space": (text("os x") + text("system") + b"\x93", "asks for os x.system"),
    "a name that rules a terminal": (
        text("\x1b[2J") + text("\n\r\ud800") + b"\x93",
        "asks for \\x1b[2J",
    ),
    "a long name": (text("x" * 9999) + text("y") + b"\x93", "asks for xxx"),
    "a persistent id of a number": (integer(5) + b"Q", "names a storage"),
    "a persistent id of text": (text("storage") + b"Q", "names a storage"),
    "a persistent id of laughs": (LAUGHS + b"Q", "names a storage"),
    "a persistent id of a module": (tuple_of(text("module"), *[TOUCH] * 3) + b"Q", "a storage"),
    "a persistent id of a tensor": (tensor() + b"Q", "names a storage"),
    "a storage of an unknown kind": (storage(kind="float32"), "names a storage"),
    "a storage of -1 numbers": (storage(numel=-1), "names a storage"),
    "a storage in two ways": (storage() + storage(kind="IntStorage"), "in two ways"),
    "a key of laughs": (b"}" + LAUGHS + b"Ns", "unusual type, tuple"),
    "a deep key": (b"}" + DEEP + b"Ns", "unusual type, tuple"),
    "a key of a tensor": (b"}" + tensor() + b"Ns", "unusual type, Tensor"),
    "keys that collide": (b"}" + integer(5 * (2**61 - 1)) + b"Ns", "unusual type, int"),
    "depth": (dict_of(x=DEEP), "has no tensors"),
    "depth of lists": (b"]" * 99_999 + b"a" * 99_998, "has no tensors"),
    "depth of dicts": ((b"}" + text("model")) * 40_000 + b"N" + b"s" * 40_000, "has no tensors"),
    "a dict in itself": (
        b"}q\x00(" + text("model") + b"h\x00" + text("state_dict") + b"h\x00u",
        "no",
    ),
    "length": (b"(" + b"N" * 400_000 + b"t", "more than 300000 opcodes"),
    "a list copied often": (
        PAIRS + b"(" + (name("collections.OrderedDict") + b"h\x01\x85R") * 30_000 + b"t\x86",
        "has no tensors",
    ),
    "a large memo": (b"Nr\xff\xff\xff\x7f", "has no tensors"),
    "an empty memo": (b"h\x05", "its pickle is broken"),
    "an empty stack": (b"\x86", "its pickle is broken"),
    "no mark": (b"t", "its pickle is broken"),
    "two values": (b"NN", "its pickle is broken"),
    "an odd dict": (b"}(" + text("a") + b"u", "its pickle is broken"),
    "items for a number": (b"K\x01(Nu", "adds items to a int"),
    "text that is none": (b"X\x02\x00\x00\x00\xff\xff", "its pickle is broken"),
    "an unprintable name": (dict_of(**{"a\x1b[2Jb\n": tensor()}), "an unprintable name"),
    "nothing": (b"}", "has no tensors"),
    "only other things": (dict_of(netG=b"}", netD=b"}"), "it holds a dict of netG, netD"),
}


@pytest.mark.parametrize("case", PICKLES)
@CONTAINERS
def test_a_hostile_pickle_is_refused(case, container, tmp_path):
    refused(tmp_path / "w.pth", container(PICKLES[case][0]), PICKLES[case][1])


TENSORS = {
    "absurd storage": (tensor((10**12,), (1,), 0, storage(numel=10**12)), ""),
    "larger storage": (tensor(stored=storage(numel=5)), ""),
    "smaller storage": (tensor((1,), (1,), 0, storage(numel=3)), ""),
    "absurd shape": (tensor((10**12,)), "larger than its storage"),
    "absurd product": (tensor((2**62,) * 32, (0,) * 32), "larger than its storage"),
    "shape beyond 63 bits": (tensor((2**64, 0), (1, 1)), "absurd"),
    "empty, yet absurd": (tensor((0, 2**62), (1, 1)), "cannot be read"),
    "expanded": (tensor((10**9,), (0,)), "larger than its storage"),
    "just expanded": (tensor((5,), (0,)), "larger than its storage"),
    "offset": (tensor((2,), (1,), 3), "reaches beyond it"),
    "offset of 2^62": (tensor((1,), (1,), 2**62), "reaches beyond it"),
    "negative offset": (tensor((1,), (1,), -1), "negative"),
    "negative stride": (tensor((4,), (-1,), 3), "negative"),
    "negative shape": (tensor((-1,), (1,)), "negative"),
    "two negative axes": (tensor((-2, -2), (1, 1)), "negative"),
    "stride": (tensor((2, 2), (3, 1)), "reaches beyond it"),
    "too few strides": (tensor((2, 2), (1,)), "2 axes with 1 strides"),
    "many axes": (tensor((1,) * 1000, (1,) * 1000), "1000 axes"),
    "path as a key": (tensor(stored=storage("../../../etc/passwd")), ""),
    "other type": (tensor(stored=storage(kind="DoubleStorage")), ""),
}


@pytest.mark.parametrize("case", TENSORS)
@CONTAINERS
def test_a_number_in_a_file_is_no_allocation(case, container, tmp_path):
    tracemalloc.start()
    value, message = TENSORS[case]
    refused(tmp_path / "w.pth", container(dict_of(w=value)), message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


@CONTAINERS
def test_many_views_of_one_storage_are_no_allocation(container, tmp_path):
    half = [tensor((n, 3), (0, 1)) for n in (1,)] + [tensor((1, 4), (k, 1)) for k in range(500)]
    refused(
        tmp_path / "w.pth",
        container(dict_of(**{f"w{i}": t for i, t in enumerate(half)})),
        "tensors overlap",
    )


GOOD = dict_of(w=tensor())
LEGACY = {
    "version": (legacy(GOOD, protocol=1000), "unknown version"),
    "no keys": (legacy(GOOD, keys=()), "its list of storages"),
    "other keys": (legacy(GOOD, keys=("1",)), "its list of storages"),
    "keys of lists": (legacy(GOOD, keys=([],)), "no list of its storages"),
    "other size": (legacy(GOOD, data=struct.pack("<q", 3) + DATA), "two sizes"),
    "negative size": (legacy(GOOD, data=struct.pack("<q", -4) + DATA), "two sizes"),
    "no size": (legacy(GOOD, data=b""), "cannot be read"),
    "short": (legacy(GOOD, data=struct.pack("<q", 4) + DATA[:-1]), "has 15 bytes, not 16"),
}


@pytest.mark.parametrize("case", LEGACY)
def test_a_broken_legacy_file_is_refused(case, tmp_path):
    refused(tmp_path / "w.pth", *LEGACY[case])
