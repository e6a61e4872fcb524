"""What is saved arrives: bit for bit over twenty architectures, or not at all where a file is damaged."""

import json
import random
import shutil
import weakref

import pytest
import torch
from torch import nn

import sparselab as sl
from sparselab.core.artefacts import sealed
from sparselab.deploy.tensor_writer import NAMES, Planned, write_safetensors
from tests.deploy.architectures import ARCHITECTURES, bits, other

load_file = pytest.importorskip("safetensors.torch", reason="needs the extra 'deploy'").load_file


def pruned(model, pattern="2:4"):
    sparsifier = sl.Sparsifier(model, pattern)
    sparsifier.compute()
    sparsifier.finalize()
    return model


def require_same(loaded, model):
    state, found = model.state_dict(), loaded.state_dict()
    assert list(state) == list(found)
    assert not [name for name in state if not torch.equal(bits(state[name]), bits(found[name]))]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_round_trips_bit_for_bit(name, tmp_path):
    model = pruned(ARCHITECTURES[name]())
    plain = sum(
        tensor.numel() * tensor.element_size()
        for tensor in {t.data_ptr(): t for t in model.state_dict().values()}.values()
    )
    for form in ("dense", "compressed"):
        saved = sl.save(model, tmp_path / form, form=form)
        assert saved.frame["dense_bytes"].sum() == plain
        loaded = other(model)
        sl.load_into(loaded, tmp_path / form)
        require_same(loaded, model)
        judged = sl.check(tmp_path / form).set_index("layer")
        for row in saved.verdict.itertuples():
            if row.layer in judged.index:
                assert judged.loc[row.layer, "density"] == row.density, row.layer


def test_models_of_transformers_are_read_without_sparselab(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra 'zoo'")
    words = torch.arange(12).reshape(2, 6)
    for name in ("llama_tied", "mixtral"):
        model = pruned(ARCHITECTURES[name]())
        folder = tmp_path / name
        sl.save(model, folder, shard_bytes=20_000)
        assert len(list(folder.glob("model-*.safetensors"))) > 1
        again = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        with torch.no_grad():
            assert torch.equal(again(words).logits, model(words).logits)
        sl.save(model, tmp_path / f"{name}-compressed", form="compressed")
        config = transformers.AutoConfig.from_pretrained(tmp_path / f"{name}-compressed")
        empty = transformers.AutoModelForCausalLM.from_config(config).eval()
        sl.load_into(empty, tmp_path / f"{name}-compressed")
        with torch.no_grad():
            assert torch.equal(empty(words).logits, model(words).logits)


def test_what_is_known_comes_back(tmp_path):
    model = pruned(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 8)))
    report = sl.permute(model, torch.randn(2, 16))
    told = {"plan": report.plan, "protocol": {"windows": 16, "calibration": ["wikitext", 2.5]}, "recipe": {"lr": 0.1}}
    sl.save(model, tmp_path / "a", pattern="2:4", **told)
    found = sl.load_into(other(model), tmp_path / "a")
    assert (found.protocol, found.recipe, found.pattern) == (told["protocol"], told["recipe"], "2:4")
    assert found.plan.to_json() == report.plan.to_json()
    assert found.verdict["is_sparse"].tolist() == sl.check(model)["is_sparse"].tolist()


def test_sizes(tmp_path):
    layer = nn.Linear(512, 256, bias=False).half()
    for pattern, share in (("2:4", 0.5625), ("1:4", 0.28125), ("4:8", 0.5625), ("16:32", 0.5625), ("2:16", 0.15625)):
        saved = sl.save(
            pruned(nn.Linear(512, 256, bias=False).half(), pattern),
            tmp_path / pattern.replace(":", "-"),
            form="compressed",
            pattern=pattern,
        )
        assert saved.frame["bytes"].sum() / saved.frame["dense_bytes"].sum() == share, pattern
    assert sl.save(layer, tmp_path / "not sparse", form="compressed").frame["form"].tolist() == ["dense"]


def test_masks_travel_with_masked_models(tmp_path):
    def masked():
        model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
        return model, sl.Sparsifier(model, "2:4")

    model, sparsifier = masked()
    sparsifier.compute()
    model[1].weight.data[0] = 0  # its mask keeps what is zero
    for form in ("dense", "compressed"):
        sl.save(model, tmp_path / form, form=form)
        again, follower = masked()
        sl.load_into(again, tmp_path / form)
        require_same(again, model)
        assert all(torch.equal(follower.masks[name], mask) for name, mask in sparsifier.masks.items())
        sl.load_into(
            nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8)), tmp_path / form
        )  # a plain one has no use for them
    sparsifier.masks["0.weight"].fill_(False)
    with pytest.raises(ValueError, match=r"save: '0.weight' and 0 more weights are not zero where their masks are"):
        sl.save(model, tmp_path / "fading")


def test_negative_zeros_come_back_positive_from_compressed_weights(tmp_path):
    model = nn.Linear(8, 4, bias=False)
    model.weight.data = -model.weight.data.abs() * sl.create_mask(model.weight)
    assert bool((model.weight.signbit() & (model.weight == 0)).any())
    for form, negative in (("dense", True), ("compressed", False)):
        sl.save(model, tmp_path / form, form=form)
        loaded = nn.Linear(8, 4, bias=False)
        sl.load_into(loaded, tmp_path / form)
        assert torch.equal(loaded.weight, model.weight)
        assert bool((loaded.weight.signbit() & (loaded.weight == 0)).any()) is negative


def plain():
    """A model, and the options that save it: tensors in one file."""
    return pruned(ARCHITECTURES["cnn"]()), {}


def masked_in_several_files():
    """With an index, and masks that the places of the compressed weights do not tell."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    sl.Sparsifier(model, "2:4").compute()
    model[0].weight.data[0] = 0
    return model, {"shard_bytes": 500}


def of_transformers():
    """With the configuration from which the model is made."""
    return pruned(ARCHITECTURES["llama_tied"]()), {"shard_bytes": 20_000}


DAMAGED = {
    (plain, "dense"): ["masks.safetensors", "model.safetensors", "sparselab.json"],
    (plain, "compressed"): ["compressed.safetensors", "sparselab.json"],
    (masked_in_several_files, "dense"): ["masks.safetensors", "model.safetensors.index.json", "sparselab.json"],
    (masked_in_several_files, "compressed"): ["compressed.safetensors.index.json", "masks.safetensors"],
    (of_transformers, "dense"): ["config.json", "model.safetensors.index.json", "sparselab.json"],
    (of_transformers, "compressed"): ["compressed.safetensors.index.json", "config.json", "sparselab.json"],
}
"""Of a model and a form, some of the files that there are: each file is damaged in its turn."""


@pytest.mark.parametrize(("make", "form"), DAMAGED)
def test_damaged_files_are_not_loaded(make, form, tmp_path):
    torch.manual_seed(0)
    model, options = make()
    sl.save(model, tmp_path / "whole", form=form, protocol={"text": "sent"}, **options)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert set(DAMAGED[make, form]) <= set(files)
    chance, refused = random.Random(0), 0
    for number in range(100):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        damage(folder / files[number % len(files)], chance)
        refused += not loads(model, folder)
        shutil.rmtree(folder)
    assert refused >= 95
    for name in files:
        folder = shutil.copytree(tmp_path / "whole", tmp_path / "missing")
        (folder / name).unlink()
        assert not loads(model, folder), name
        shutil.rmtree(folder)


def damage(file, chance):
    """Turn a bit in ``file``, or cut it off; half of the times near its beginning, where formats keep what tensors are."""
    content = bytearray(file.read_bytes())
    place = chance.randrange(len(content) if chance.random() < 0.5 else min(200, len(content)))
    if chance.random() < 0.7:
        content[place] ^= 1 << chance.randrange(8)
    else:
        del content[place:]
    file.write_bytes(content)


def loads(model, folder):
    """Whether a damaged folder is taken, and then all is as in ``model`` (a blank in the manifest); else nothing has changed."""
    loaded = other(model)
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    try:
        sl.load_into(loaded, folder)
    except ValueError:
        assert all(torch.equal(bits(before[name]), bits(now)) for name, now in loaded.state_dict().items())
        return False
    require_same(loaded, model)
    return True


def test_a_file_that_is_missing_is_named(tmp_path):
    model, _ = plain()
    sl.save(model, tmp_path / "a")
    (tmp_path / "a" / "masks.safetensors").unlink()
    with pytest.raises(ValueError, match=r"masks.safetensors is not there, and sparselab.json beside it names it"):
        sl.load_into(model, tmp_path / "a")


def test_forged_places_are_refused(tmp_path):
    """With every digest right, as no accident leaves them."""
    model = pruned(nn.Linear(6, 8, bias=False), "2:6")
    sl.save(model, tmp_path / "a", form="compressed", pattern="2:6")
    manifest = json.loads((tmp_path / "a" / "sparselab.json").read_text())
    held = {name: tensor.clone() for name, tensor in load_file(tmp_path / "a" / "compressed.safetensors").items()}
    for places in (torch.full((6,), 255, dtype=torch.uint8), torch.zeros(6, dtype=torch.uint8)):
        planned = [
            Planned(n, t.dtype, tuple(t.shape), lambda t=t: t) for n, t in {**held, "weight.places": places}.items()
        ]
        written = write_safetensors(tmp_path / "a" / "compressed.safetensors", planned)
        manifest["files"] = {"compressed.safetensors": {"bytes": written.bytes, "sha256": written.sha256}}
        content = {key: value for key, value in manifest.items() if key != "digest"}
        (tmp_path / "a" / "sparselab.json").write_text(sealed(content))
        with pytest.raises(ValueError, match="the file is damaged"):
            sl.load_into(nn.Linear(6, 8, bias=False), tmp_path / "a")


def test_what_does_not_fit_is_refused_before_anything_is_loaded(tmp_path):
    sl.save(nn.Sequential(nn.Linear(8, 4)), tmp_path / "a")
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    sl.save(tied, tmp_path / "untied")
    tied[1].weight = tied[0].weight
    for model, folder, words in (
        (nn.Linear(8, 4), "a", "2 tensors the model does not have, '0.weight' first"),
        (nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)), "a", "2 tensors are not there, '1.weight' first"),
        (nn.Sequential(nn.Linear(8, 5)), "a", r"'0.weight' has shape \(4, 8\) in .*, and in the model \(5, 8\)"),
        (nn.Sequential(nn.Linear(8, 4)).half(), "a", r"model.to\(torch.float32\)"),
        (nn.Sequential(nn.Linear(8, 4, device="meta")), "a", "on the meta device"),
        (tied, "untied", "'0.weight' and '1.weight' are one tensor in this model and two in"),
        (nn.Linear(8, 4), "nowhere", "holds no sparselab.json"),
    ):
        before = copy_of(model)
        with pytest.raises(ValueError, match=words):
            sl.load_into(model, tmp_path / folder)
        assert all(torch.equal(before[name], tensor) for name, tensor in copy_of(model).items())


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if not tensor.is_meta}


def test_wrong_arguments_leave_no_folder(tmp_path):
    class Own(nn.Linear):
        def get_extra_state(self):
            return {"amax": 3}

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for model, options, words in (
        (nn.Linear(8, 4), {"form": "zip"}, "unknown form 'zip'; valid: compressed, dense"),
        (nn.Linear(8, 4), {"plan": {}}, "plan takes a sl.Plan"),
        (nn.Linear(8, 4), {"protocol": {"x": torch.ones(1)}}, "protocol has to be what JSON holds"),
        (nn.Linear(8, 4), {"recipe": 3}, "recipe takes a mapping"),
        (nn.Linear(8, 4), {"shard_bytes": 0}, "at least one byte"),
        (nn.Linear(8, 4), {"pattern": "unstructured,0.5"}, "needs an N:M pattern"),
        (Own(8, 4), {}, "has '_extra_state' and 0 more entries that are no parameters"),
    ):
        with pytest.raises(ValueError, match=words):
            sl.save(model, tmp_path / "new", **options)
    with pytest.raises(ValueError, match="is not an empty folder"):
        sl.save(nn.Linear(8, 4), tmp_path / "full")
    with pytest.raises(ValueError, match=r"would be inside .*notes.txt, which is a file"):
        sl.save(nn.Linear(8, 4), tmp_path / "full" / "notes.txt" / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
    sl.save(nn.BatchNorm1d(4), tmp_path / "new", pattern=None)
    assert sl.deploy.Artefact.read(tmp_path / "new").pattern is None


def test_files_are_safetensors_of_every_dtype_written_one_tensor_at_a_time(tmp_path):
    tensors = {str(dtype): torch.randn(3, 5).mul(9).to(dtype) for dtype in NAMES} | {
        "none": torch.zeros(0, 4),
        "one": torch.tensor(7),
    }
    alive = weakref.WeakSet()

    def make(tensor):
        assert not alive, "the tensor before is still there"
        fresh = tensor.clone()
        alive.add(fresh)
        return fresh

    planned = [Planned(name, t.dtype, tuple(t.shape), lambda t=t: make(t)) for name, t in tensors.items()]
    written = write_safetensors(tmp_path / "a.safetensors", planned)
    assert written.bytes == (tmp_path / "a.safetensors").stat().st_size
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(bits(found[name]), bits(tensor))
    with pytest.raises(ValueError, match="unknown dtype, of 'q',"):
        write_safetensors(tmp_path / "b", [Planned("q", torch.complex128, (1,), tuple)])


def test_an_artefact_is_one_line(tmp_path):
    saved = sl.save(nn.Linear(16, 16), tmp_path / "saved", pattern=None)
    assert repr(saved) == f"<Artefact: {saved}>"
    assert len(repr(saved).splitlines()) == 1
