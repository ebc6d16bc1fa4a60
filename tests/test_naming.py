"""What the naming notebooks do not show: adapters of a real library, wrapped names, and the installed command."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ft_tutorial.evidence import evidence_of
from ft_tutorial.materials import small_cnn
from ft_tutorial.movement import compare, moved
from ft_tutorial.naming import describe_run

FACTS = dict(task_same=False, domain_same=False, data="new", objective_same=True, labelled=True,
             small_step=False, after_frozen=False, same_run=False)
OPTIONS = ("--task-same no --domain-same no --data new --objective-same yes --labelled yes --small-step no "
           "--after-frozen no --same-run no --lang en").split()


@pytest.fixture
def source():
    model = small_cnn(8, seed=0)
    with torch.no_grad():  # as after training: no tensor is constant
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor += 0.05 * torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1))
    return model


def shifted(model, size=0.01):
    child = copy.deepcopy(model)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in child.parameters():
            parameter += size * torch.randn_like(parameter)
    return child


def lora(source):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(copy.deepcopy(source), peft.LoraConfig(
        r=2, target_modules=["0.1.0", "0.2.0"], init_lora_weights=False))


def test_a_peft_adapter_is_inside_beside_frozen_weights(source):
    run = describe_run(compare(source, lora(source)), **FACTS).run
    assert (run.inherited, run.moved, run.added) == ("all", "none", "inside")


def test_a_peft_adapter_in_training(source):
    model = lora(source)
    with moved(model) as movement:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model.eval()(torch.randn(4, 1, 32, 32)).square().mean().backward()
        optimizer.step()
    run = describe_run(movement, source=source, **FACTS).run
    assert (run.moved, run.added, run.update) == ("none", "inside", "gradient")
    movement.check()


def test_the_same_adapter_merged_has_moved_the_weights(source):
    merged = lora(source).merge_and_unload()
    run = describe_run(compare(source, merged), **FACTS).run
    assert (run.inherited, run.moved, run.added) == ("all", "some", "none")


@pytest.mark.parametrize("prefix", ["model.", "module.", "0.", "backbone.net."])
def test_a_checkpoint_with_renamed_prefixes(source, prefix):
    state = {prefix + name: tensor for name, tensor in shifted(source).state_dict().items()}
    run = describe_run(compare(source, state), **FACTS).run
    assert (run.inherited, run.moved, run.added) == ("all", "all", "none")


def test_a_resized_head_cannot_be_the_same_task(source):
    child = shifted(source)
    child[1][2] = nn.Linear(384, 5)
    movement = compare(source, child)
    assert describe_run(movement, **FACTS).run.added == "head"
    with pytest.raises(ValueError, match="another number of outputs"):
        describe_run(movement, **FACTS | dict(task_same=True))


@pytest.mark.parametrize("size, inherited", [(0.001, "all"), (0.05, "all")])
def test_far_moves_are_still_inherited(source, size, inherited):
    assert evidence_of(compare(source, shifted(source, size))).inherited == inherited


@pytest.mark.parametrize("seed", range(5))
def test_strangers_of_the_same_shapes_are_not(source, seed):
    assert evidence_of(compare(source, small_cnn(8, seed=100 + seed))).inherited == "none"


def test_a_reset_block_is_some(source):
    child = shifted(source)
    child[0][1] = small_cnn(8, seed=9)[0][1]
    assert evidence_of(compare(source, child)).inherited == "some"


def test_more_may_be_said_of_what_was_added_but_nothing_against_it(source):
    movement = compare(source, source)
    assert describe_run(movement, added="outside", **FACTS).run.added == "outside"
    with pytest.raises(ValueError, match="added='head'"):
        describe_run(movement, added="head", **FACTS)


def test_japanese(source):
    described = describe_run(compare(source, shifted(source)), lang="ja", name="元のモデル", **FACTS)
    assert described.sentence().startswith("元のモデル、")
    assert "はい" in repr(described) and "更新" in described.sentence()


def command(*arguments):
    return subprocess.run([Path(sys.executable).with_name("ft_tutorial"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=120)


def test_the_installed_command(source, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(source.state_dict(), tmp_path / "source.safetensors")
    torch.save(shifted(source).state_dict(), tmp_path / "trained.pth")
    done = command("name", tmp_path / "source.safetensors", tmp_path / "trained.pth", *OPTIONS)
    assert done.returncode == 0 and done.stderr == ""
    assert "all 14 inherited parameter tensors updated" in done.stdout


class Evil:
    def __reduce__(self):
        return (print, ("code from a file ran",))


def test_the_command_runs_no_code_from_a_file(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "source.pth")
    torch.save({"weight": Evil()}, tmp_path / "evil.pth")
    done = command("name", tmp_path / "source.pth", tmp_path / "evil.pth", *OPTIONS)
    assert done.returncode == 2 and done.stdout == ""
    assert "could run code" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_wrong_option_is_exit_code_2():
    done = command("name", "a.pth", "b.pth", "--data", "old")
    assert done.returncode == 2 and done.stdout == "" and "invalid choice" in done.stderr
