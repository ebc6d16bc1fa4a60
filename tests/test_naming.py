"""What the naming notebooks do not show: adapters of a real library, wrapped names, and the installed command."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

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


def test_a_run_that_inherits_nothing_says_what_came_over():
    movement = compare(small_cnn(8, seed=0), small_cnn(8, seed=5))
    for carrier, said in (("none", "Nothing learned earlier comes over; new ex"), ("outputs", "Only outputs of a trained model")):
        described = describe_run(movement, **FACTS, carrier=carrier)
        assert (described.run.carrier, described.run.inherited) == (carrier, "none")
        assert described.sentence().startswith(said)
    with pytest.raises(ValueError, match="carrier='parameters', but measured was 'nothing inherited'"):
        describe_run(movement, **FACTS, carrier="parameters")
    with pytest.raises(ValueError, match="carrier='outputs', but measured was 'parameters'"):
        describe_run(compare(small_cnn(8, seed=0), shifted(small_cnn(8, seed=0))), **FACTS, carrier="outputs")


def test_biases_of_layers_that_stay_are_inherited(source):
    "Their few numbers cannot tell where they come from; that their layer was not replaced does."
    with moved(source) as movement, torch.no_grad():
        for parameter in source.parameters():
            parameter += 1
    evidence = evidence_of(movement, "all")
    assert {change.name for change in evidence.moved_by} == {name for name, _ in source.named_parameters()}
    assert evidence.new == () and evidence.inherited == evidence.moved == "all"


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
    with_head = copy.deepcopy(source)
    with_head[1] = small_cnn(5, seed=3)[1]
    assert "すべてビット単位でそのまま" in describe_run(compare(source, with_head), lang="ja", **FACTS).sentence()


def test_a_new_layer_that_did_not_learn_is_not_called_added(source):
    before = copy.deepcopy(source)
    before[1] = small_cnn(5, seed=3)[1]
    with moved(before) as movement, torch.no_grad():
        before[0][0][0].weight += 0.1
    assert evidence_of(movement, source=source).added == "none"
    with moved(before) as movement, torch.no_grad():  # the control
        before[1][2].weight += 0.1
    assert evidence_of(movement, source=source).added == "head"


def test_only_parameters_of_a_new_head_are_counted(source):
    child = copy.deepcopy(source)
    child[1] = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(384), nn.Linear(384, 5))
    assert f"new 5-output head ({2 * 384 + 5 * 385:,} parameters)" in describe_run(compare(source, child), **FACTS).sentence()


def test_statistics_alone_are_no_start(source):
    child = small_cnn(8, seed=5)
    child.load_state_dict(dict(source.named_buffers()), strict=False)
    evidence = evidence_of(compare(source, child))
    assert (evidence.inherited, evidence.kept) == ("none", ())
    child[0][0][0].load_state_dict(source[0][0][0].state_dict())  # the control: one layer's parameters too
    evidence = evidence_of(compare(source, child))
    assert evidence.inherited == "all" and {c.kind for c in evidence.kept} == {"parameter", "buffer"}


def test_the_name_of_a_source_is_text(source):
    with pytest.raises(TypeError, match="name must be text, got 3"):
        describe_run(compare(source, source), name=3, **FACTS)


def facts_of(movement, **more):
    run = describe_run(movement, **FACTS | more).run
    return run.inherited, run.moved, run.update, run.added


def test_statistics_beside_a_head_that_learned_are_no_parameters_that_moved(source):
    "As feature extraction in training mode leaves it."
    child = copy.deepcopy(source)
    child[1] = small_cnn(8, seed=1)[1]
    child.train()(torch.randn(8, 1, 32, 32))
    described = describe_run(compare(source, child), **FACTS)
    assert "all 12 inherited parameter tensors kept bit for bit; 8 statistics changed" in described.sentence()
    assert (described.run.moved, described.run.update) == ("none", "gradient")
    assert not described.verdicts["exam"].fine_tuning and described.verdicts["llm_era"].name == "probe"
    with pytest.raises(ValueError, match="measured was 'none': changed: 0 of 12 inherited parameter tensors$"):
        describe_run(compare(source, child), moved="some", **FACTS)


def mlp(inputs=8, middle=16, outputs=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, middle), nn.ReLU(), nn.Linear(middle, outputs))


def with_layer(model, place, layer):
    child = copy.deepcopy(model)
    child[place] = layer
    return child


@pytest.mark.parametrize("trained, expected, words", [
    (lambda m: with_layer(m, 0, nn.Linear(5, 16)), ("some", "none", "gradient", "inside"),
     "96 new parameters inside the body; all 4 inherited"),
    (lambda m: with_layer(m, 4, nn.Linear(32, 4)), ("all", "none", "gradient", "head"),
     "new 4-output head (132 parameters); all 4 inherited"),
    (lambda m: with_layer(with_layer(m, 0, nn.Linear(5, 16)), 4, nn.Linear(16, 7)), ("some", "none", "gradient", "head"),
     "96 new parameters inside the body; new 7-output head (119 parameters); all 2 inherited"),
    (lambda m: with_layer(m, 4, nn.Linear(16, 1)), ("all", "none", "gradient", "head"), "new 1-output head (17 parameters)"),
], ids=["stem", "wider head", "stem and head", "one output"])
def test_a_layer_of_another_shape_is_new_with_its_bias(trained, expected, words):
    model = mlp()
    movement = compare(model, trained(model))
    assert facts_of(movement) == expected
    assert words in describe_run(movement, **FACTS).sentence()


def test_a_replaced_layer_is_the_same_to_compare_and_to_moved():
    for place, layer in ((0, nn.Linear(5, 16)), (2, nn.Linear(16, 16)), (4, nn.Linear(16, 7))):
        model = mlp()
        before = copy.deepcopy(model)
        with moved(model) as movement:
            model[place] = layer
        seen = facts_of(movement, source="all")
        assert seen == facts_of(movement, source=before) == facts_of(compare(before, model)), place


def test_only_another_number_of_outputs_speaks_against_the_same_task():
    model = mlp()
    assert facts_of(compare(model, with_layer(model, 4, nn.Linear(32, 4))), task_same=True)[1] == "none"
    with moved(model) as movement:
        model[4] = nn.Linear(16, 7)
    with pytest.raises(ValueError, match="4.weight has another number of outputs"):
        describe_run(movement, source="all", **FACTS | dict(task_same=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_found_wherever_it_is(value, source):
    broken, head = copy.deepcopy(source), copy.deepcopy(source)
    broken[0][0][0].weight.data[0] = value
    head[1][2] = nn.Linear(384, 5)
    head[1][2].bias.data[0] = value
    with moved(copy.deepcopy(source)) as same:
        pass
    with moved(model := copy.deepcopy(source)) as added:
        model[1][2] = copy.deepcopy(head[1][2])
    for movement, given, when in ((compare(source, head), None, "after the run"), (added, "all", "after the run"),
                                  (compare(broken, broken), None, "before the run"), (same, broken, "of `source`")):
        with pytest.raises(ValueError, match="not finite") as error:
            describe_run(movement, source=given, **FACTS)
        assert when in str(error.value)


def test_strangers_with_batch_norm_have_nothing_in_common():
    "Their counters of batches fit each other, and are no parameters."
    def wide(size):
        return nn.Sequential(nn.Conv2d(3, size, 3), nn.BatchNorm2d(size), nn.Flatten(), nn.Linear(size, size))

    for one, other, words in ((models.resnet18(), models.mobilenet_v2(), "nothing in common"),
                              (wide(8), wide(16), r"other shapes: 0.weight is \(16, 3, 3, 3\), was \(8, 3, 3, 3\)")):
        movement = compare(one, other)
        assert evidence_of(movement).kept == ()
        with pytest.raises(ValueError, match=words):
            describe_run(movement, **FACTS)
        assert describe_run(movement, carrier="outputs", **FACTS).run.inherited == "none"


def test_a_cast_is_not_called_bit_for_bit(source):
    described = describe_run(compare(source, copy.deepcopy(source).half()), **FACTS)
    assert "all 14 inherited parameter tensors equal but for a cast to float16" in described.sentence()
    assert "bit for bit" not in described.sentence() + described.plot().legends[0].get_texts()[0].get_text()
    with moved(model := copy.deepcopy(source)) as movement:
        model.bfloat16()
    assert "cast to bfloat16" in describe_run(movement, source="all", **FACTS).sentence()


def test_the_picture_of_a_bias_that_was_zero():
    model = mlp()
    nn.init.zeros_(model[4].bias)
    child = copy.deepcopy(model)
    child[4].bias.data += 1
    assert "zero before" in describe_run(compare(model, child), **FACTS).plot().axes[0].texts[0].get_text()
    still = describe_run(compare(model, model), **FACTS).plot().axes[0].texts[0].get_text()
    assert still == "no inherited parameter moved"


def test_facts_of_another_kind_are_refused_before_they_are_compared(source):
    movement = compare(source, source)
    for told, words in (dict(moved="everything"), "one of"), (dict(added=["head"]), "added must be str"), \
                       (dict(task_same=1), "task_same must be bool"):
        with pytest.raises((ValueError, TypeError), match=words):
            describe_run(movement, **FACTS | told)
    with pytest.raises(ValueError, match="'en' or 'ja', got 'fr'"):
        describe_run(movement, **FACTS).sentence("fr")
    with pytest.raises(ValueError, match="'en' or 'ja', got 'fr'"):
        describe_run(movement, lang="fr", **FACTS)


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


def test_a_wrong_option_is_exit_code_2():
    done = command("name", "a.pth", "b.pth", "--data", "old")
    assert done.returncode == 2 and done.stdout == "" and "invalid choice" in done.stderr
