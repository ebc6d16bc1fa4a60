"""What a cell of the movement notebooks does not show: other kinds of networks, files, and random tensors."""

import copy
import os
import tempfile
from pathlib import Path
from pickle import UnpicklingError
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from fastai.callback import schedule  # noqa: F401  gives learners `fit_one_cycle`
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import MSELossFlat
from fastai.text.models.awdlstm import AWD_LSTM
from fastai.text.models.core import get_language_model, get_text_classifier
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ft_tutorial.differences import _alike, _difference, _snapshot
from ft_tutorial.freezing import freeze
from ft_tutorial.matching import match, tensors_of
from ft_tutorial.movement import compare, moved
from ft_tutorial.tables import Table

TINY = dict(emb_sz=8, n_hid=8, n_layers=2, pad_token=1, bidir=False, output_p=0.0, hidden_p=0.0,
            input_p=0.0, embed_p=0.0, weight_p=0.0)


@given(st.integers(0, 2**31), st.integers(1, 50), st.sampled_from([torch.float16, torch.float32, torch.float64]))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_difference_is_the_formula(seed, size, dtype):
    torch.manual_seed(seed)
    before = torch.randn(size).to(dtype)
    after = torch.where(torch.rand(size) < 0.5, before, torch.randn(size).to(dtype))
    found = _difference(before, after)
    assert found["changed"] == int((before != after).sum())
    assert found["distance"] == pytest.approx((after.double() - before.double()).norm().item(), abs=1e-12)
    assert found["norm"] == pytest.approx(before.double().norm().item())


def test_a_view_that_is_not_contiguous():
    whole = torch.arange(12.0).reshape(3, 4)
    assert _difference(whole.t(), whole.t().clone())["changed"] == 0


def test_whole_numbers_booleans_and_complex_numbers():
    assert _difference(torch.tensor([1, 2]), torch.tensor([1, 3])) == {"changed": 1}
    assert _difference(torch.tensor([1j]), torch.tensor([1j]))["changed"] == 0
    assert _difference(torch.tensor([1j]), torch.tensor([2j]))["changed"] == 1


@pytest.mark.parametrize("rows, said", [(30, ""), (31, "and 1 more rows; `.to_frame()` shows all")])
def test_a_long_table_says_that_rows_are_left_out(rows, said):
    table = Table(dict(row=number) for number in range(rows))
    assert repr(table).endswith(said or "29") and (said in table._repr_html_()) and len(table.to_frame()) == rows
    assert ("more rows" in table._repr_html_()) == ("more rows" in repr(table)) == bool(said)


def test_tied_weights_are_one_copy_and_both_names_move():
    config = dict(TINY, tie_weights=True, out_bias=True)
    model = get_language_model(AWD_LSTM, 30, config)
    tensors = tensors_of(model)[0]
    tied = [name for name, t in tensors.items() if t is model[1].decoder.weight]
    assert len(tied) >= 2
    with moved(model) as movement, torch.no_grad():
        model[1].decoder.weight[0] += 1
    assert [movement[name].state for name in tied] == ["moved"] * len(tied)
    assert sum(t.nbytes for t in {id(t): t for t in movement._old.values()}.values()) \
        == sum(t.nbytes for t in {id(t): t for t in tensors.values()}.values())


def test_a_text_classifier_answers_the_same_twice():
    "Its encoder carries a hidden state from batch to batch, which must not be taken for a change."
    model = get_text_classifier(AWD_LSTM, 30, 3, config=TINY)
    batch = torch.randint(2, 30, (4, 12))
    with moved(model) as movement:
        pass
    assert movement.same_function(batch) and movement.same_function(batch, part="")
    with moved(model) as movement, torch.no_grad():
        model[0].module.encoder.weight.add_(0.1)
    assert not movement.same_function(batch)


def test_modes_and_buffers_are_left_alone_by_same_function():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2))
    model.train()
    model[0][1].eval()
    with moved(model) as movement, torch.no_grad():
        model[0][0].weight.mul_(2)
    with moved(model) as after:
        assert not movement.same_function(torch.randn(8, 4))
    assert {c.state for c in after.changes.values()} == {"equal"}
    assert model.training and model[0][0].training and not model[0][1].training


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda m: nn.Sequential(m, nn.Linear(2, 2))])
def test_wrapped_networks_are_paired(wrap):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    movement = compare(model, wrap(model))
    kept = [c for c in movement.changes.values() if c.was is not None]
    assert len(kept) == len(model.state_dict())
    assert {c.state for c in kept} == {"equal"}


def test_a_module_or_buffer_of_two_names_has_both():
    shared = nn.BatchNorm1d(2)
    shared.register_buffer("again", shared.running_mean)
    tensors, buffers = tensors_of(nn.Sequential(shared, shared))
    own = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked", "again"}
    assert {*tensors} == {f"{i}.{name}" for i in (0, 1) for name in own}
    assert buffers == {name for name in tensors if not name.endswith((".weight", ".bias"))}
    with pytest.raises(ValueError, match="no tensors found in the network"):
        tensors_of(nn.ReLU())


def test_a_name_counts_more_than_an_order():
    "Parametrizations put words into names; what is left over is not paired with what has its own counterpart."
    torch.manual_seed(0)
    before = {f"{name}.weight": torch.randn(2, 2) for name in "ab"}
    after = {f"{name}.parametrizations.weight.original": torch.randn(2, 2) for name in "ba"}
    assert match(before, after) == {f"{name}.parametrizations.weight.original": f"{name}.weight" for name in "ab"}
    body = {f"body.{i}.weight": torch.randn(3, 2) for i in range(6)}
    sizes = dict(x=3, a=2), dict(a=3)
    before, after = ({**body, **{f"{name}.{own}": torch.randn([n] * dims) for name, n in size.items()
                                 for own, dims in (("weight", 2), ("bias", 1))}} for size in sizes)
    assert match(before, after) == {name: name for name in after}  # `a` was reshaped; `x`, of its new shape, is lost


@pytest.mark.parametrize("cosine, alike", [(0.5, True), (0.05, False)])
def test_long_tensors_of_half_their_direction_are_kin(cosine, alike):
    "Two random tensors of 10,000 values have a cosine within 0.05, so 0.5 is no chance."
    torch.manual_seed(0)
    source, other = torch.randn(2, 100, 100)
    assert _alike(source, cosine * source + (1 - cosine**2) ** 0.5 * other) is alike


def test_statistics_of_the_only_frozen_layer_are_frozen():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    freeze(model, model[1])
    with moved(model) as movement:
        pass
    assert {name for name, change in movement.changes.items() if change.frozen} == {name for name in model.state_dict() if name[0] == "1"}


def test_a_run_that_has_not_ended_shows_itself():
    with moved(nn.Linear(3, 2)) as movement:
        for shown in (repr(movement), movement._repr_html_()):
            assert "has not ended" in shown and "<table" not in shown
    assert "has not ended" not in movement._repr_html_() and "<table" in movement._repr_html_()


def test_groups_of_state_dicts_are_the_first_words():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), nn.Linear(4, 2))
    movement = compare(model.state_dict(), model.state_dict())
    assert [row["group"] for row in movement.by_group] == ["0", "1"]
    assert [row["layer"] for row in movement.by_layer] == ["0.0", "0.1", "1"]


def test_files(tmp_path):
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "source.pth")
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(model.state_dict(), tmp_path / "source.safetensors")
    for file in ("source.pth", "source.safetensors"):
        movement = compare(str(tmp_path / file), model)
        assert movement.summary == "2 tensors: 2 equal bit for bit"
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(ValueError, match="not a file of weights"):
        compare(tmp_path / "bad.safetensors", model)


def test_frozen_by_requires_grad_is_checked_in_a_plain_loop():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    held = [*model[0].parameters(), *model[1].parameters()]
    for parameter in held:
        parameter.requires_grad_(False)

    def loop():
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        for _ in range(3):
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    with moved(model) as movement:
        loop()
    with pytest.raises(AssertionError, match="1.running_mean"):
        movement.check()  # the control: statistics go on moving without a gradient
    freeze(model, "[01][.]")
    with moved(model) as movement:
        loop()
    movement.check()
    assert movement["2.weight"].state == "moved"


def test_a_norm_layer_that_was_asked_to_move_is_not_called_frozen():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    freeze(model, "[01][.]", batchnorm="train")
    with moved(model) as movement:
        model(torch.randn(8, 4))
    assert movement["1.running_mean"].state == "moved"
    movement.check()


def test_pairs_are_one_to_one():
    one, two = (nn.Sequential(*[nn.Linear(4, 4) for _ in range(n)]) for n in (3, 5))
    pairs = match(tensors_of(one)[0], tensors_of(two)[0])
    assert len(set(pairs.values())) == len(pairs) == 6


def test_a_snapshot_is_not_moved_by_training():
    model = nn.Linear(2, 2)
    copies = _snapshot(tensors_of(model)[0])
    kept = {name: copy.clone() for name, copy in copies.items()}
    with torch.no_grad():
        model.weight.zero_()
    assert all(torch.equal(kept[name], copies[name]) for name in kept)


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 2))


def test_another_function_with_the_same_tensors_is_seen():
    model = two_layers()
    other = copy.deepcopy(model)
    other[0][1] = nn.Tanh()
    movement = compare(model, other)
    assert {c.state for c in movement.changes.values()} == {"equal"}
    assert not movement.same_function(torch.randn(5, 4))
    assert compare(model, copy.deepcopy(model)).same_function(torch.randn(5, 4))


def test_outputs_that_cannot_be_compared_are_refused():
    with moved(model := two_layers()) as movement:
        pass
    with pytest.raises(ValueError, match="no tensor with numbers"):
        movement.same_function(torch.randn(0, 4))
    with pytest.raises(ValueError, match="no part 'nope'"):
        movement.same_function(torch.randn(2, 4), part="nope")
    assert model.training


def test_a_new_head_of_the_same_shape_is_new():
    model = two_layers()
    with moved(model) as movement:
        model[1] = nn.Linear(8, 2)
    assert [movement[name].state for name in ("1.weight", "1.weight (before)")] == ["added", "lost"]


def test_names_that_all_changed():
    model = two_layers()
    renamed = nn.ModuleDict({"a": model[0][0], "b": model[0][2], "c": model[1]})
    assert {c.state for c in compare(model, renamed).changes.values()} == {"equal"}


def test_a_frozen_layer_with_a_buffer_of_its_own_is_checked():
    class Centre(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x):
            if self.training:
                self.mean.lerp_(x.detach().mean(0), 0.1)
            return (x - self.mean) * self.scale

    model = nn.Sequential(nn.Linear(4, 4), Centre(), nn.Linear(4, 2))
    for parameter in model[:2].parameters():
        parameter.requires_grad_(False)
    with moved(model) as movement:
        model(torch.randn(8, 4))
    with pytest.raises(AssertionError, match="1.mean"):
        movement.check()


@pytest.mark.parametrize("bad", [nn.ReLU(), nn.Linear(2, 2, device="meta"), nn.LazyLinear(2)])
def test_nothing_to_compare_is_said_before_the_run(bad):
    with pytest.raises(ValueError, match="no tensors|no numbers"), moved(bad):
        raise AssertionError("the block must not begin")


class Evil:
    def __reduce__(self):
        return (print, ("code from a file ran",))


@pytest.fixture(scope="module")
def trained():
    "A learner after one epoch of a one-cycle schedule, whose rates are NumPy numbers."
    data = [(torch.randn(4), torch.randn(2)) for _ in range(8)]
    batches = DataLoaders(DataLoader(data, bs=4), DataLoader(data, bs=4))
    learner = Learner(batches, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), MSELossFlat())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(1)
    return learner


def test_what_fastai_saves_by_default_is_read(trained, tmp_path):
    trained.path, trained.model_dir = tmp_path, "."
    file = trained.save("learner")
    assert set(torch.load(file, weights_only=False)) == {"model", "opt"}
    with pytest.raises(UnpicklingError):  # the control: the optimizer's state is more than tensors
        torch.load(file, weights_only=True)
    tensors = tensors_of(file)[0]
    assert {name: t.tolist() for name, t in tensors.items()} == \
        {name: t.tolist() for name, t in trained.model.state_dict().items()}


def test_reading_leaves_torchs_list_of_safe_objects_as_it_was(trained, tmp_path):
    torch.save(trained.model.state_dict(), tmp_path / "x.pth")
    with torch.serialization.safe_globals([np.dtype]):
        before = set(torch.serialization.get_safe_globals())
        tensors_of(tmp_path / "x.pth")
        assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_saved_beside_another_numpy_are_read(core, tmp_path):
    "NumPy 2 renamed the module that makes its numbers; the old name is in older files."
    now = np.float64(0).__reduce__()[0].__module__
    torch.save({"model": {"weight": torch.ones(2)}, "rate": np.float64(0.1)}, tmp_path / "now.pth")
    with ZipFile(tmp_path / "now.pth") as old, ZipFile(tmp_path / "other.pth", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(f"c{now}\n".encode(), f"cnumpy.{core}.multiarray\n".encode()))
    assert list(tensors_of(tmp_path / "other.pth")[0]) == ["weight"]


@pytest.mark.parametrize("thing", [Evil(), np.array([Evil()], dtype=object)], ids=["object", "array"])
def test_no_other_object_is_read_beside_the_weights(trained, thing, tmp_path, capsys):
    torch.save({"model": trained.model.state_dict(), "opt": thing}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="could run code"):
        tensors_of(tmp_path / "evil.pth")
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file permissions of POSIX")
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(name):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(b"")
        file.chmod(0)
        Path(folder).chmod(0o755)
        root = os.geteuid() == 0
        try:
            os.seteuid(65534 if root else os.geteuid())
            with pytest.raises(PermissionError, match=name):
                tensors_of(file)
        finally:
            os.seteuid(0 if root else os.geteuid())


def test_paths_as_a_shell_writes_them(trained, tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    torch.save(trained.model.state_dict(), tmp_path / "x.pth")
    safetensors.save_file(trained.model.state_dict(), tmp_path / "X.SAFETENSORS")
    assert {c.state for c in compare("~/x.pth", tmp_path / "X.SAFETENSORS").changes.values()} == {"equal"}


def test_an_error_says_which_of_two_networks_it_means(trained):
    with pytest.raises(ValueError, match="`before`: no tensors found in what was given, which holds epoch"):
        compare({"epoch": 1}, trained)
    with pytest.raises(ValueError, match="`after`: weight holds no numbers"):
        compare(trained, nn.Linear(2, 2, device="meta"))


def test_the_error_of_a_frozen_tensor_says_how_far_it_moved():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    with moved(model) as movement:
        model[0].weight.data *= 2
    with pytest.raises(AssertionError, match="0.weight.*relative change 1"):
        movement.check()
